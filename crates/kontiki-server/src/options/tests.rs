//! Every check of the options, each with the value that trips it and the words that must be in its message.

use super::*;

fn lone() -> NodeOptions {
    NodeOptions { data_dir: "data".into(), ..NodeOptions::default() }
}

fn three() -> NodeOptions {
    let members = (1..=3).map(|id| (NodeId(id), format!("127.0.0.1:{}", 7600 + id))).collect();
    NodeOptions { listen: "127.0.0.1:7601".into(), members, partitions: 8, ..lone() }
}

#[test]
fn the_defaults_make_a_lone_node_and_a_member_list_makes_three() {
    lone().check().expect("only data_dir must be given");
    three().check().expect("a usual cluster");
    assert_eq!(lone().cuts(), Vec::<Bytes>::new());
    assert_eq!(three().cuts().len(), 7);
}

#[test]
fn a_wildcard_listener_of_a_member_is_fine_because_its_member_address_is_known() {
    NodeOptions { listen: "0.0.0.0:7601".into(), ..three() }.check().expect("members say how to reach it");
    NodeOptions { listen: "[::]:7601".into(), advertise: Some("[::1]:7601".into()), ..lone() }.check().expect("IPv6");
}

#[test]
fn nonsense_is_named_with_its_value_and_a_way_out() {
    let key = |text: &'static str| Bytes::from_static(text.as_bytes());
    let admission = |scans_max, write_bytes_max| AdmissionOptions { scans_max, write_bytes_max, ..AdmissionOptions::default() };
    let members =
        |list: &[(u64, &str)]| list.iter().map(|(id, address)| (NodeId(*id), (*address).to_owned())).collect::<Vec<_>>();
    let cases: Vec<(NodeOptions, &[&str])> = vec![
        (NodeOptions::default(), &["data_dir is not set"]),
        (NodeOptions { node_id: NodeId(0), ..lone() }, &["node_id is 0"]),
        (NodeOptions { cluster_name: String::new(), ..lone() }, &["cluster_name has 0 bytes"]),
        (NodeOptions { listen: "localhost".into(), ..lone() }, &["listen is `localhost`", "host:port"]),
        (NodeOptions { listen: ":80".into(), ..lone() }, &["no valid host"]),
        (NodeOptions { listen: "::1:80".into(), ..lone() }, &["no valid host"]),
        (NodeOptions { listen: "a:70000".into(), ..lone() }, &["whose port is not 0 to 65535"]),
        (NodeOptions { listen: "0.0.0.0:7601".into(), ..lone() }, &["set advertise"]),
        (NodeOptions { advertise: Some("a:0".into()), ..lone() }, &["advertise is a:0", "nobody can connect"]),
        (NodeOptions { http_listen: Some("127.0.0.1:7601".into()), ..three() }, &["both 127.0.0.1:7601"]),
        (NodeOptions { listen: LISTEN_ANYWHERE.into(), ..three() }, &["any free port", "set listen"]),
        (NodeOptions { node_id: NodeId(4), ..three() }, &["node_id is n4", "n1, n2, n3"]),
        (NodeOptions { members: members(&[(1, "a:1"), (1, "a:2")]), ..three() }, &["n1 twice"]),
        (NodeOptions { members: members(&[(1, "a:1"), (2, "a:1")]), ..three() }, &["a:1 twice"]),
        (NodeOptions { members: members(&[(0, "a:1")]), ..three() }, &["node 0 at a:1"]),
        (NodeOptions { members: members(&[(1, "0.0.0.0:1")]), ..three() }, &["a member's address is 0.0.0.0:1"]),
        (NodeOptions { partitions: 0, ..lone() }, &["partitions is 0", "1 to 1023"]),
        (NodeOptions { partitions: 1024, ..lone() }, &["partitions is 1024"]),
        (NodeOptions { partitions: 3, boundaries: vec![key("m")], ..lone() }, &["partitions is 3, but boundaries make 2"]),
        (NodeOptions { boundaries: vec![key("m"), key("a")], ..lone() }, &["`m` comes before `a`"]),
        (NodeOptions { boundaries: vec![key("m"), key("m")], ..lone() }, &["`m` comes before `m`"]),
        (NodeOptions { boundaries: vec![key("")], ..lone() }, &["not a valid key"]),
        (NodeOptions { admission: admission(0, 1 << 27), ..lone() }, &["admission.scans_max is 0"]),
        (NodeOptions { admission: admission(1, 1), ..lone() }, &["admission.write_bytes_max is 1;"]),
        (NodeOptions { raft: RaftOptions { heartbeat_ms: 5000, ..RaftOptions::default() }, ..lone() }, &["heartbeat_ms is 5000"]),
    ];
    for (options, words) in cases {
        let error = options.check().expect_err(words[0]);
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "`{word}` is missing in: {error}");
        }
    }
}
