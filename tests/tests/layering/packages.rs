//! Rules on what comes in from outside: licences and bans as `deny.toml` lists them, the registry, and what a user of each crate
//! compiles in the end. They work on `cargo metadata`, so CI needs no tool beside cargo.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Packages that must not be reachable from a crate by normal and build dependencies, with the reason.
const UNREACHABLE: &[(&str, &[&str], &str)] = &[
    ("kontiki-client", &["rocksdb", "librocksdb-sys", "openraft"], "a remote user must not compile RocksDB"),
    ("kontiki-types", &["tokio", "tonic", "openraft", "rand"], "the core does no I/O"),
    ("kontiki-placement", &["tokio", "tonic", "openraft", "rand"], "the core does no I/O"),
    ("kontiki-storage", &["tokio", "tonic", "openraft", "rand"], "the core does no I/O"),
    ("kontiki-cli", &["turmoil"], "production code is not linked with the simulator"),
];

/// The one registry.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What `deny.toml` says, as far as it is held here.
#[derive(Debug, Deserialize)]
pub struct Rules {
    licenses: Licences,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licences {
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    package: String,
    reason: String,
}

impl Rules {
    /// Reads `deny.toml`.
    pub fn parse(text: &str) -> Self {
        toml::from_str(text).expect("deny.toml has licenses.allow and bans.deny")
    }
}

/// One package of the graph.
#[derive(Clone, Debug, Deserialize)]
pub struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Debug, Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Debug, Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

/// Packages and their edges, as `cargo metadata` prints them.
#[derive(Debug, Deserialize)]
pub struct Graph {
    packages: Vec<Package>,
    resolve: Resolve,
}

impl Graph {
    /// Reads the output of `cargo metadata --format-version 1`.
    pub fn parse(json: &str) -> Self {
        serde_json::from_str(json).expect("cargo metadata prints what it documents")
    }

    /// Names of what `name` compiles: normal and build dependencies, and theirs. Those of development do not count.
    fn reach(&self, name: &str) -> BTreeSet<&str> {
        let names: BTreeMap<&str, &str> = self.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
        let edges: BTreeMap<&str, &Vec<Edge>> = self.resolve.nodes.iter().map(|node| (node.id.as_str(), &node.deps)).collect();
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = self.packages.iter().filter(|p| p.name == name).map(|p| p.id.as_str()).collect();
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            for edge in edges.get(id).copied().into_iter().flatten() {
                if edge.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev")) {
                    open.push(&edge.pkg);
                }
            }
        }
        seen.into_iter().filter_map(|id| names.get(id).copied()).collect()
    }
}

/// Whether a licence expression can be met with the allowed licences alone. `/` is the old way to write OR; AND binds tighter.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let value = any_of(&tokens, &mut at, allowed);
    value && at == tokens.len()
}

fn any_of(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut value = all_of(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        value |= all_of(tokens, at, allowed);
    }
    value
}

fn all_of(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut value = one(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        value &= one(tokens, at, allowed);
    }
    value
}

fn one(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(token) = tokens.get(*at) else { return false };
    *at += 1;
    if *token == "(" {
        let value = any_of(tokens, at, allowed);
        *at += 1;
        return value;
    }
    let mut name = (*token).to_owned();
    if tokens.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", tokens.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    allowed.contains(&name)
}

/// Every package's licence can be met with those that `deny.toml` allows.
pub fn check_licences(graph: &Graph, rules: &Rules) -> Vec<String> {
    let mut violations = Vec::new();
    for package in &graph.packages {
        match &package.license {
            Some(expression) if satisfied(expression, &rules.licenses.allow) => {}
            found => {
                violations.push(format!("{} {}: licence {found:?} is not among those allowed", package.name, package.version))
            }
        }
    }
    violations
}

/// No package that `deny.toml` bans.
pub fn check_bans(graph: &Graph, rules: &Rules) -> Vec<String> {
    let mut violations = Vec::new();
    for Ban { package: banned, reason } in &rules.bans.deny {
        let (name, version) = banned.split_once(':').unwrap_or((banned, ""));
        let hit = |p: &&Package| {
            p.name == name && (version.is_empty() || p.version == version || p.version.starts_with(&format!("{version}.")))
        };
        violations.extend(graph.packages.iter().filter(hit).map(|p| format!("{} {} is banned: {reason}", p.name, p.version)));
    }
    violations
}

/// Everything that is not ours comes from the one registry: no git, no other registry.
pub fn check_origins(graph: &Graph) -> Vec<String> {
    let foreign = |p: &&Package| match &p.source {
        Some(source) => source != REGISTRY,
        None => !p.name.starts_with("kontiki"),
    };
    graph.packages.iter().filter(foreign).map(|p| format!("{} {} comes from {:?}", p.name, p.version, p.source)).collect()
}

/// No crate compiles, however indirectly, what its users must not.
pub fn check_reach(graph: &Graph) -> Vec<String> {
    let mut violations = Vec::new();
    for (name, banned, why) in UNREACHABLE {
        let reach = graph.reach(name);
        if !reach.contains(name) {
            violations.push(format!("crate {name} is not in the graph: this rule holds nothing"));
        }
        violations.extend(banned.iter().filter(|b| reach.contains(*b)).map(|b| format!("{name} compiles {b}: {why}")));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str =
        "[licenses]\nallow = [\"MIT\", \"Unicode-3.0\"]\n[bans]\ndeny = [{ crate = \"getrandom:0.2\", reason = \"r\" }]";

    fn graph(packages: &[(&str, &str, &str)], edges: &[(&str, &str, &str)]) -> Graph {
        let package = |(name, version, license): &(&str, &str, &str)| Package {
            id: (*name).to_owned(),
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            license: Some((*license).to_owned()),
            source: None,
        };
        let node = |name: &str| Node {
            id: name.to_owned(),
            deps: edges
                .iter()
                .filter(|(from, _, _)| *from == name)
                .map(|(_, to, kind)| Edge {
                    pkg: (*to).to_owned(),
                    dep_kinds: vec![EdgeKind { kind: (!kind.is_empty()).then(|| (*kind).to_owned()) }],
                })
                .collect(),
        };
        Graph {
            packages: packages.iter().map(package).collect(),
            resolve: Resolve { nodes: packages.iter().map(|p| node(p.0)).collect() },
        }
    }

    #[test]
    fn licence_expressions_are_read_as_written() {
        let allowed = Rules::parse(RULES).licenses.allow;
        for yes in ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "(MIT OR GPL-3.0) AND Unicode-3.0"] {
            assert!(satisfied(yes, &allowed), "{yes}");
        }
        for no in ["GPL-3.0", "MIT AND GPL-3.0", "MIT WITH X", "", "(MIT", "MIT GPL-3.0", "Unicode-3.0 AND (GPL-3.0 OR BSD)"] {
            assert!(!satisfied(no, &allowed), "{no}");
        }
    }

    #[test]
    fn a_foreign_licence_a_banned_version_and_a_foreign_origin_are_found() {
        let rules = Rules::parse(RULES);
        let bad = graph(&[("getrandom", "0.2.15", "GPL-3.0")], &[]);
        assert_eq!(check_licences(&bad, &rules).len(), 1);
        assert_eq!(check_bans(&bad, &rules).len(), 1);
        assert_eq!(check_origins(&bad).len(), 1);
        let good = graph(&[("kontiki-x", "0.20.1", "MIT")], &[]);
        assert!(
            check_licences(&good, &rules).is_empty() && check_bans(&good, &rules).is_empty() && check_origins(&good).is_empty()
        );
        assert!(check_bans(&graph(&[("getrandom", "0.20.0", "MIT")], &[]), &rules).is_empty());
    }

    #[test]
    fn what_is_compiled_through_others_is_found_and_development_does_not_count() {
        let names =
            ["kontiki-client", "kontiki-types", "kontiki-placement", "kontiki-storage", "kontiki-cli", "middle", "rocksdb"];
        let packages: Vec<_> = names.iter().map(|name| (*name, "1.0.0", "MIT")).collect();
        let through = graph(&packages, &[("kontiki-client", "middle", ""), ("middle", "rocksdb", "build")]);
        assert_eq!(check_reach(&through), ["kontiki-client compiles rocksdb: a remote user must not compile RocksDB"]);
        let in_tests = graph(&packages, &[("kontiki-client", "rocksdb", "dev")]);
        assert!(check_reach(&in_tests).is_empty());
        assert_eq!(check_reach(&graph(&[], &[])).len(), UNREACHABLE.len());
    }
}
