//! Rules on the text of source files: one home for each big dependency, seams, no knowledge of simulation, and the shape of a
//! file. Comments and string literals are taken out first, so that a comment may name what code must not.

/// One source file.
pub struct Source {
    /// From the workspace's root.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// A crate name in code, where it may stand, and in how many files at most.
const HOMES: &[(&str, &str, usize)] = &[
    ("bincode", "crates/kontiki-types/src/", 1),
    ("rocksdb", "crates/kontiki-storage/src/engine/rocks/", usize::MAX),
    ("openraft", "crates/kontiki-raft/", usize::MAX),
    ("openraft_macros", "crates/kontiki-raft/", usize::MAX),
    ("openraft_rt", "crates/kontiki-raft/", usize::MAX),
    ("openraft_rt_tokio", "crates/kontiki-raft/", usize::MAX),
    ("turmoil", "tests/sim/src/", usize::MAX),
];

/// Where the lints on raw clocks, randomness, threads, files and sockets may be lifted: the seams, and programs that are not
/// the library.
const SEAMS: &[&str] = &[
    "bench/",
    "tests/",
    "crates/kontiki/examples/",
    "crates/kontiki-cli/",
    "crates/kontiki-client/src/dial.rs",
    "crates/kontiki-client/src/options.rs", // draws the seed of a client that was given none
    "crates/kontiki-proto/build.rs",
    "crates/kontiki-server/src/env/",
    "crates/kontiki-server/src/env.rs",
    "crates/kontiki-storage/src/disk/",
    "crates/kontiki-storage/src/disk.rs",
    "crates/kontiki-storage/src/engine/rocks/",
];

/// Lines of a file: one noun each.
const LINES_MAX: usize = 600;

/// The code of a file: comments and the contents of string literals replaced by spaces, line breaks kept.
pub fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['r', '"' | '#', ..] if !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_string(rest).unwrap_or(0),
            ['"', ..] => string(rest),
            ['\'', '\\', ..] => 2 + rest[2..].iter().skip(1).position(|c| *c == '\'').map_or(1, |end| end + 2),
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if length == 0 {
            out.push(chars[at]);
            at += 1;
        } else {
            let end = (at + length).min(chars.len());
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] if depth == 1 => return at + 2,
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = 2 + hashes;
    let end = rest[body..].windows(closing.len()).position(|window| window == closing).unwrap_or(rest.len() - body);
    Some(body + end + closing.len())
}

/// Whether code names a crate: `name::`, `::name::`, `use name;`, `use name as`, `extern crate name`. A module or a longer word of that
/// name is not the crate.
fn names_crate(code: &str, name: &str) -> bool {
    let of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let longer = before.ends_with(of_word);
        let module = before.strip_suffix("::").is_some_and(|path| path.ends_with(|c| of_word(c) || c == '>'));
        let imported = before.trim_end().ends_with("use") || before.trim_end().ends_with("extern crate");
        !longer && !module && (after.starts_with("::") || (imported && after.starts_with([';', ' '])))
    })
}

/// Each big dependency is named only in its home.
pub fn check_homes(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for (name, home, files_max) in HOMES {
        let named: Vec<&str> = sources.iter().filter(|s| names_crate(&code(&s.text), name)).map(|s| s.path.as_str()).collect();
        violations.extend(
            named.iter().filter(|path| !path.starts_with(home)).map(|path| format!("{path} names {name}; its home is {home}")),
        );
        if named.len() > *files_max {
            violations.push(format!("{name} is named in {} files, at most {files_max} may: {}", named.len(), named.join(", ")));
        }
    }
    violations
}

/// No production file asks whether it is simulated.
pub fn check_simulation(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("crates/")) {
        // Feature names are string literals, so the text itself is searched, without its comments.
        for (number, line) in source.text.lines().enumerate() {
            let line: String = line.split("//").next().unwrap_or_default().chars().filter(|c| !c.is_whitespace()).collect();
            let asks = line.contains("cfg(") || line.contains("cfg!(") || line.contains("cfg_attr(");
            let words = ["sim", "simulation", "madsim", "turmoil", "dst"];
            let named = words.iter().any(|word| {
                line.contains(&format!("feature=\"{word}\""))
                    || line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == *word)
            });
            if asks && named {
                violations.push(format!("{}:{}: production code asks whether it is simulated", source.path, number + 1));
            }
        }
    }
    violations
}

/// Every file opens with `//!` and has at most `LINES_MAX` lines.
pub fn check_shape(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        if !source.text.starts_with("//!") {
            violations.push(format!("{} does not open with `//!`: say why it exists", source.path));
        }
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            violations
                .push(format!("{} has {lines} lines, at most {LINES_MAX}; give one of its nouns a file of its own", source.path));
        }
    }
    violations
}

/// Whether a file is a module that another file of its crate declares under `#[cfg(test)]`.
fn only_in_tests(path: &str, sources: &[Source]) -> bool {
    let module = path.trim_end_matches("/mod.rs").trim_end_matches(".rs").rsplit('/').next().unwrap_or_default();
    let package = path.split("/src/").next().unwrap_or_default();
    let declared = |text: &str| {
        text.split("#[cfg(test)]").skip(1).any(|after| {
            let line = after.trim_start().lines().next().unwrap_or_default();
            line.ends_with(&format!("mod {module};"))
        })
    };
    sources.iter().any(|source| source.path.starts_with(&format!("{package}/src/")) && declared(&source.text))
}

/// The seam lints are lifted only at the seams and in tests, and with a reason.
pub fn check_seams(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let code = code(&source.text);
        for (at, _) in code.match_indices("clippy::disallowed") {
            let line = code[..at].matches('\n').count() + 1;
            let attribute = code[..at].rfind("#").map_or("", |start| &code[start..]);
            let attribute = attribute.split_once(']').map_or(attribute, |(inside, _)| inside);
            if !attribute.contains("reason =") {
                violations.push(format!("{}:{line}: a lifted lint says no reason", source.path));
            }
            let test_code =
                code[..at].contains("#[cfg(test)]") || source.path.contains("/tests/") || only_in_tests(&source.path, sources);
            if !test_code && !SEAMS.iter().any(|seam| source.path.starts_with(seam)) {
                violations.push(format!("{}:{line}: the seam lints are lifted outside of the seams", source.path));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        let text = "// rocksdb::DB\nlet a = \"rocksdb::DB \\\" x\"; /* /* rocksdb:: */ rocksdb:: */ let b = r#\"rocksdb::\"#; let c = '\"'; d('\\'', x)";
        let code = code(text);
        assert!(!code.contains("rocksdb"), "{code}");
        assert!(code.contains("let a") && code.contains("let b") && code.contains("let c") && code.contains("d("), "{code}");
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn a_crate_is_named_by_path_or_by_use_but_not_by_a_longer_word() {
        for yes in [
            "use rocksdb::DB;",
            "let x = rocksdb::DB::open();",
            "use rocksdb;",
            "fn f(x: ::rocksdb::DB)",
            "extern crate rocksdb;",
        ] {
            assert!(names_crate(yes, "rocksdb"), "{yes}");
        }
        for no in [
            "use my_rocksdb::DB;",
            "let rocksdb = 1;",
            "mod rocksdb;",
            "use crate::rocksdb::RocksEngine;",
            "rocksdb_options::new()",
        ] {
            assert!(!names_crate(no, "rocksdb"), "{no}");
        }
    }

    #[test]
    fn a_second_home_is_found() {
        let good = source("crates/kontiki-types/src/encoding.rs", "use bincode::config;");
        let second = source("crates/kontiki-types/src/other.rs", "use bincode::config;");
        let foreign = source("crates/kontiki-server/src/x.rs", "use openraft::Raft;");
        assert!(check_homes(&[source(&good.path, &good.text)]).is_empty());
        assert_eq!(check_homes(&[good, second]).len(), 1);
        assert_eq!(check_homes(&[foreign]).len(), 1);
        assert_eq!(check_homes(&[source("crates/kontiki/src/lib.rs", "turmoil::net::TcpStream")]).len(), 1);
        assert!(check_homes(&[source("tests/sim/src/env.rs", "turmoil::net::TcpStream")]).is_empty());
    }

    #[test]
    fn a_question_whether_this_is_a_simulation_is_found() {
        for bad in ["#[cfg(sim)]", "if cfg!(sim) {", "#[cfg(feature = \"sim\")]", "#[cfg(any(test, madsim))]"] {
            assert_eq!(check_simulation(&[source("crates/x/src/lib.rs", bad)]).len(), 1, "{bad}");
        }
        for good in ["#[cfg(test)]", "// no cfg(sim) here", "let similar = cfg!(unix);"] {
            assert!(check_simulation(&[source("crates/x/src/lib.rs", good)]).is_empty(), "{good}");
        }
    }

    #[test]
    fn a_file_without_a_why_and_one_too_long_are_found() {
        assert_eq!(check_shape(&[source("a.rs", "use x;\n//! late")]).len(), 1);
        assert_eq!(check_shape(&[source("a.rs", &format!("//! why\n{}", "x\n".repeat(LINES_MAX)))]).len(), 1);
        assert!(check_shape(&[source("a.rs", &format!("//! why\n{}", "x\n".repeat(LINES_MAX - 1)))]).is_empty());
    }

    #[test]
    fn a_lint_lifted_elsewhere_or_without_a_reason_is_found() {
        let lifted = "#[allow(clippy::disallowed_methods, reason = \"the disk seam\")]";
        let bare = "#[allow(clippy::disallowed_methods)]";
        assert!(check_seams(&[source("crates/kontiki-storage/src/disk/file.rs", lifted)]).is_empty());
        assert_eq!(check_seams(&[source("crates/kontiki-storage/src/disk/file.rs", bare)]).len(), 1);
        assert_eq!(check_seams(&[source("crates/kontiki-storage/src/machine.rs", lifted)]).len(), 1);
        let in_module = format!("#[cfg(test)]\nmod tests {{ {lifted} }}");
        assert!(check_seams(&[source("crates/kontiki-raft/src/x.rs", &in_module)]).is_empty());
        assert!(check_seams(&[source("crates/kontiki-storage/tests/scripts.rs", lifted)]).is_empty());
        let testing = || source("crates/kontiki-raft/src/testing.rs", lifted);
        let library = |text: &str| source("crates/kontiki-raft/src/lib.rs", text);
        assert!(check_seams(&[testing(), library("#[cfg(test)]\npub(crate) mod testing;")]).is_empty());
        assert_eq!(check_seams(&[testing(), library("pub mod testing;")]).len(), 1);
    }
}
