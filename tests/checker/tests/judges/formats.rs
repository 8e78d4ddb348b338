//! The forms in which a history is written: bytes that stand still, lines that are refused, and everything comes back as it was.

use kontiki_checker::history::{Call, Operation, Outcome, Recorder, Reply, read_json, validate, write_edn, write_json};
use kontiki_checker::timeline;

use crate::simulate::{Dice, KINDS, Plan, execution};

/// One operation of each kind, with each outcome.
fn one_of_each() -> Vec<Operation> {
    let mut start_us = 0;
    let mut make = |process: u64, key: &str, call: Call, outcome: Outcome| {
        start_us += 100;
        let (key, end_us) = (key.to_owned(), Some(start_us + 50));
        Operation { process, key, call, outcome, start_us, end_us, group: None, session: None, stale: false }
    };
    let ok = |reply, version| Outcome::Ok { reply, version };
    let text = str::to_owned;
    let rows = [("r/a".to_owned(), (text("1"), 3)), ("r/b".to_owned(), (text("2"), 4))].into();
    let lists = [("a".to_owned(), vec![text("1"), text("2")])].into();
    let mut all = vec![
        make(1, "x", Call::Put { value: text("say \"hi\"\n") }, ok(Reply::Done, Some(3))),
        make(1, "x", Call::Get, ok(Reply::Value(Some(text("say \"hi\"\n"))), Some(3))),
        make(2, "x", Call::Delete, Outcome::Unknown { error: text("timed out") }),
        make(2, "x", Call::Get, ok(Reply::Value(None), None)),
        make(1, "x", Call::Cas { expected: None, value: text("2") }, Outcome::Refused),
        make(1, "x", Call::Cas { expected: Some(text("1")), value: text("2") }, ok(Reply::Done, Some(9))),
        make(1, "x", Call::CasVersion { expected: 9, value: text("3") }, Outcome::Failed { error: text("no leader") }),
        make(1, "n", Call::Increment, ok(Reply::Done, None)),
        make(1, "n", Call::Increment, ok(Reply::Number(2), None)),
        make(1, "n", Call::Count, ok(Reply::Number(2), None)),
        make(1, "s", Call::Add { element: text("e") }, ok(Reply::Done, None)),
        make(1, "s", Call::Members, ok(Reply::Members(vec![text("e")]), None)),
        make(1, "f", Call::Append { list: text("a"), element: text("1") }, ok(Reply::Done, None)),
        make(1, "f", Call::Lists, ok(Reply::Lists(lists), None)),
        make(1, "r/", Call::Snapshot, ok(Reply::Rows(rows), Some(5))),
        make(1, "x", Call::Put { value: text("last") }, Outcome::Unknown { error: String::new() }),
    ];
    let marked = Operation { group: Some(4), session: Some(7), stale: true, ..all[1].clone() };
    all[1] = marked;
    let last = all.len() - 1;
    all[last].end_us = None;
    all
}

fn json(history: &[Operation]) -> String {
    let mut bytes = Vec::new();
    write_json(&mut bytes, history).expect("memory takes it");
    String::from_utf8(bytes).expect("JSON is text")
}

#[test]
fn json_lines_stand_still() {
    let expected = r#"{"process":1,"type":"ok","f":"put","key":"x","value":"say \"hi\"\n","version":3,"start":100,"end":150}
{"process":1,"type":"ok","f":"get","key":"x","value":"say \"hi\"\n","version":3,"stale":true,"group":4,"session":7,"start":200,"end":250}
{"process":2,"type":"info","f":"delete","key":"x","value":null,"error":"timed out","start":300,"end":350}
{"process":2,"type":"ok","f":"get","key":"x","value":null,"start":400,"end":450}
{"process":1,"type":"fail","f":"cas","key":"x","value":[null,"2"],"refused":true,"start":500,"end":550}
{"process":1,"type":"ok","f":"cas","key":"x","value":["1","2"],"version":9,"start":600,"end":650}
{"process":1,"type":"fail","f":"cas-version","key":"x","value":[9,"3"],"error":"no leader","start":700,"end":750}
{"process":1,"type":"ok","f":"increment","key":"n","value":null,"start":800,"end":850}
{"process":1,"type":"ok","f":"increment","key":"n","value":2,"start":900,"end":950}
{"process":1,"type":"ok","f":"count","key":"n","value":2,"start":1000,"end":1050}
{"process":1,"type":"ok","f":"add","key":"s","value":"e","start":1100,"end":1150}
{"process":1,"type":"ok","f":"members","key":"s","value":["e"],"start":1200,"end":1250}
{"process":1,"type":"ok","f":"append","key":"f","value":["a","1"],"start":1300,"end":1350}
{"process":1,"type":"ok","f":"lists","key":"f","value":{"a":["1","2"]},"start":1400,"end":1450}
{"process":1,"type":"ok","f":"snapshot","key":"r/","value":{"r/a":["1",3],"r/b":["2",4]},"version":5,"start":1500,"end":1550}
{"process":1,"type":"invoke","f":"put","key":"x","value":"last","start":1600,"end":null}
"#;
    assert_eq!(json(&one_of_each()), expected);
}

#[test]
fn json_lines_come_back_as_they_were() {
    let all = one_of_each();
    assert_eq!(read_json(json(&all).as_bytes()).expect("reads"), all);
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let kind = KINDS[(seed % 4) as usize];
        let plan = Plan { kind, keys: 2, processes: 3, calls: 50, lost: 10, versions: seed % 3 == 0, long: 5 };
        let history = execution(plan, &mut dice);
        assert_eq!(read_json(json(&history).as_bytes()).expect("reads"), history, "seed {seed}");
    }
}

#[test]
fn a_line_that_is_no_operation_is_named() {
    let good = r#"{"process":1,"type":"ok","f":"put","key":"x","value":"1","start":1,"end":2}"#;
    for (bad, word) in [
        ("{", "EOF"),
        (r#"{"process":1,"type":"ok","f":"jump","key":"x","value":"1","start":1,"end":2}"#, "jump"),
        (r#"{"process":1,"type":"ok","f":"put","key":"x","value":1,"start":1,"end":2}"#, "does not fit Put"),
        (r#"{"process":1,"type":"ok","f":"put","key":"x","value":"1","start":3,"end":2}"#, "before it starts"),
        (r#"{"process":1,"type":"ok","f":"put","key":"x","value":"1","start":1,"end":null}"#, "no end"),
        (r#"{"process":1,"type":"invoke","f":"put","key":"x","value":"1","start":1,"end":2}"#, "only was invoked"),
        (r#"{"process":1,"type":"ok","f":"put","key":"x","value":"1","refused":true,"start":1,"end":2}"#, "refused"),
        (r#"{"process":1,"type":"fail","f":"put","key":"x","value":"1","refused":true,"start":1,"end":2}"#, "cannot end"),
        (r#"{"process":1,"type":"ok","f":"put","key":"x","value":"1","start":1,"end":2,"node":3}"#, "unknown field"),
    ] {
        let error = read_json(format!("{good}\n\n{bad}\n").as_bytes()).expect_err(bad).to_string();
        assert!(error.starts_with("line 3") && error.contains(word), "{bad}: {error}");
    }
}

#[test]
fn lanes_that_say_nothing_clear_are_refused() {
    for (lanes, word) in [
        ("x1  [put x 1]", "a lane begins with"),
        ("p1  [put x 1", "has no end"),
        ("p1  put x 1]", "belongs to no call"),
        ("p1  [jump x 1]", "no call `jump`"),
        ("p1  [get x]", "with 0 words"),
        ("p1  [count n many]", "many"),
        ("p1  [put x 1 no]", "cannot end"),
        ("p1  [put x 1]\np1    [put x 2]", "while it waits"),
    ] {
        let error = timeline::parse(lanes).expect_err(lanes);
        assert!(error.contains(word), "{lanes}: {error}");
    }
}

#[test]
fn a_recorder_keeps_the_order_where_the_clock_stands_still() {
    let mut recorder = Recorder::default();
    let put = |process, value: &str| Operation::invoked(process, "x", Call::Put { value: value.to_owned() });
    let done = || Outcome::Ok { reply: Reply::Done, version: None };
    let first = recorder.begin(put(1, "1"), 10);
    recorder.end(first, done(), 10);
    let second = recorder.begin(put(2, "2"), 10);
    let open = recorder.begin(put(3, "3"), 9);
    recorder.end(second, done(), 500);
    let history = recorder.operations();
    let times: Vec<_> = history.iter().map(|operation| (operation.start_us, operation.end_us)).collect();
    assert_eq!(times, [(10, Some(11)), (12, Some(500)), (13, None)]);
    assert_eq!(history[2].outcome, Outcome::Unknown { error: String::new() });
    validate(history).expect("well-formed");
    recorder.end(open, Outcome::Failed { error: "no".into() }, 600);
    assert_eq!(recorder.into_operations()[2].end_us, Some(600));
}

#[test]
fn edn_stands_still() {
    let mut bytes = Vec::new();
    write_edn(&mut bytes, &one_of_each()).expect("memory takes it");
    let edn = String::from_utf8(bytes).expect("EDN is text");
    // Process 2 is dead after its delete, so its next call is that of process 3.
    let expected = r#"{:index 0, :time 100000, :type :invoke, :process 1, :f :write, :value ["x" "say \"hi\"\n"]}
{:index 1, :time 150000, :type :ok, :process 1, :f :write, :value ["x" "say \"hi\"\n"], :version 3}
{:index 2, :time 200000, :type :invoke, :process 1, :f :read, :value ["x" nil]}
{:index 3, :time 250000, :type :ok, :process 1, :f :read, :value ["x" "say \"hi\"\n"], :version 3}
{:index 4, :time 300000, :type :invoke, :process 2, :f :write, :value ["x" nil]}
{:index 5, :time 350000, :type :info, :process 2, :f :write, :value ["x" nil], :error "timed out"}
{:index 6, :time 400000, :type :invoke, :process 3, :f :read, :value ["x" nil]}
{:index 7, :time 450000, :type :ok, :process 3, :f :read, :value ["x" nil]}
{:index 8, :time 500000, :type :invoke, :process 1, :f :cas, :value ["x" [nil "2"]]}
{:index 9, :time 550000, :type :fail, :process 1, :f :cas, :value ["x" [nil "2"]], :error :refused}
{:index 10, :time 600000, :type :invoke, :process 1, :f :cas, :value ["x" ["1" "2"]]}
{:index 11, :time 650000, :type :ok, :process 1, :f :cas, :value ["x" ["1" "2"]], :version 9}
{:index 12, :time 700000, :type :invoke, :process 1, :f :cas-version, :value ["x" [9 "3"]]}
{:index 13, :time 750000, :type :fail, :process 1, :f :cas-version, :value ["x" [9 "3"]], :error "no leader"}
{:index 14, :time 800000, :type :invoke, :process 1, :f :add, :value ["n" 1]}
{:index 15, :time 850000, :type :ok, :process 1, :f :add, :value ["n" 1]}
{:index 16, :time 900000, :type :invoke, :process 1, :f :add, :value ["n" 1]}
{:index 17, :time 950000, :type :ok, :process 1, :f :add, :value ["n" 1]}
{:index 18, :time 1000000, :type :invoke, :process 1, :f :read, :value ["n" nil]}
{:index 19, :time 1050000, :type :ok, :process 1, :f :read, :value ["n" 2]}
{:index 20, :time 1100000, :type :invoke, :process 1, :f :add, :value ["s" "e"]}
{:index 21, :time 1150000, :type :ok, :process 1, :f :add, :value ["s" "e"]}
{:index 22, :time 1200000, :type :invoke, :process 1, :f :read, :value ["s" nil]}
{:index 23, :time 1250000, :type :ok, :process 1, :f :read, :value ["s" #{"e"}]}
{:index 24, :time 1300000, :type :invoke, :process 1, :f :txn, :value [[:append "a" "1"]]}
{:index 25, :time 1350000, :type :ok, :process 1, :f :txn, :value [[:append "a" "1"]]}
{:index 26, :time 1400000, :type :invoke, :process 1, :f :txn, :value []}
{:index 27, :time 1450000, :type :ok, :process 1, :f :txn, :value [[:r "a" ["1" "2"]]]}
{:index 28, :time 1500000, :type :invoke, :process 1, :f :snapshot, :value ["r/" nil]}
{:index 29, :time 1550000, :type :ok, :process 1, :f :snapshot, :value ["r/" {"r/a" ["1" 3], "r/b" ["2" 4]}], :version 5}
{:index 30, :time 1600000, :type :invoke, :process 1, :f :write, :value ["x" "last"]}
"#;
    assert_eq!(edn, expected);
}
