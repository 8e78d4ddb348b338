//! The layer table of DESIGN section 3, as data, and the checks that hold manifests to it.

use std::collections::BTreeSet;

/// For each crate, the workspace crates that it may use. Development dependencies count too: a test that reaches upwards is
/// a test in the wrong place.
const LAYERS: &[(&str, &[&str])] = &[
    ("kontiki-types", &[]),
    ("kontiki-storage", &["kontiki-types"]),
    ("kontiki-placement", &["kontiki-types"]),
    ("kontiki-proto", &["kontiki-types"]),
    ("kontiki-raft", &["kontiki-types", "kontiki-storage"]),
    ("kontiki-client", &["kontiki-types", "kontiki-proto"]),
    (
        "kontiki-server",
        &["kontiki-types", "kontiki-storage", "kontiki-placement", "kontiki-proto", "kontiki-raft", "kontiki-client"],
    ),
    ("kontiki", &["kontiki-server", "kontiki-client", "kontiki-types"]),
    ("kontiki-cli", &["kontiki", "kontiki-client"]),
    ("kontiki-etcd", &["kontiki-client", "kontiki-types"]),
    ("kontiki-checker", &[]),
    ("kontiki-sim", &["kontiki-checker", "kontiki-client", "kontiki-raft", "kontiki-server", "kontiki-storage", "kontiki-types"]),
    (
        "kontiki-tests",
        &[
            "kontiki",
            "kontiki-checker",
            "kontiki-cli",
            "kontiki-client",
            "kontiki-placement",
            "kontiki-proto",
            "kontiki-raft",
            "kontiki-server",
            "kontiki-storage",
            "kontiki-types",
        ],
    ),
    ("kontiki-bench", &["kontiki", "kontiki-client"]),
];

/// Packages that exactly the named crates may use, with the reason. A name ending in `*` covers every package that starts so.
const ONLY: &[(&str, &[&str], &str)] = &[
    ("openraft*", &["kontiki-raft"], "an upgrade of openraft touches one crate"),
    ("rocksdb", &["kontiki-storage"], "one engine trait, one file that knows RocksDB"),
    ("bincode", &["kontiki-types"], "one encoding of what is persisted or sent"),
    ("turmoil", &["kontiki-sim"], "production code does not know that it is simulated"),
    ("clap*", &["kontiki-cli", "kontiki-bench", "kontiki-sim"], "only the command line reads the command line"),
    ("toml", &["kontiki-cli", "kontiki-tests"], "only the command line reads settings files"),
];

/// Packages that a crate must never use, with the reason.
const NEVER: &[(&[&str], &[&str], &str)] = &[
    (
        &["kontiki-types", "kontiki-storage", "kontiki-placement"],
        &["tokio*", "tonic*", "openraft*", "rand", "rand_*", "turmoil", "futures", "uuid"],
        "the core is deterministic and does no I/O of its own",
    ),
    (&["kontiki-proto"], &["tokio*", "openraft*", "rocksdb", "rand"], "proto is generated code and conversions"),
    (&["kontiki-raft"], &["tonic*", "prost*", "hyper*"], "raft declares a Transport that the server implements"),
    (&["kontiki-client"], &["rocksdb", "openraft*"], "a remote user must not compile RocksDB"),
    (
        &["kontiki-checker"],
        &["tokio*", "tonic*", "openraft*", "rocksdb", "rand", "rand_*", "turmoil"],
        "a judge is a function of the history: the same history, the same verdict",
    ),
];

/// The one crate that has lints of its own: it must say `unsafe` in one file (`tests/sim/src/bin/sim/interpose.rs`), and `forbid` has no exceptions.
const OWN_LINTS: &str = "kontiki-sim";

/// One crate's manifest, as far as the rules look at it.
pub struct Manifest {
    /// Where it lies, from the root.
    pub folder: String,
    /// Its package name.
    pub name: String,
    /// Everything it names in any dependency section.
    pub dependencies: BTreeSet<String>,
    /// Names of dependencies that do not say `workspace = true`.
    pub not_inherited: Vec<String>,
    /// Names of its features.
    pub features: Vec<String>,
    /// Whether it takes the workspace's lints.
    pub lints_inherited: bool,
}

impl Manifest {
    /// Reads a `Cargo.toml`.
    pub fn parse(folder: &str, text: &str) -> Self {
        let toml: toml::Table = text.parse().unwrap_or_else(|error| panic!("{folder}/Cargo.toml: {error}"));
        let mut sections: Vec<&toml::Table> = Vec::new();
        let mut tables = vec![&toml];
        if let Some(targets) = toml.get("target").and_then(toml::Value::as_table) {
            tables.extend(targets.values().filter_map(toml::Value::as_table));
        }
        for table in tables {
            for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
                sections.extend(table.get(section).and_then(toml::Value::as_table));
            }
        }
        let mut dependencies = BTreeSet::new();
        let mut not_inherited = Vec::new();
        for (name, value) in sections.into_iter().flatten() {
            // A renamed dependency counts under its real name.
            let real = value.get("package").and_then(toml::Value::as_str).unwrap_or(name);
            dependencies.insert(real.to_owned());
            if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                not_inherited.push(name.clone());
            }
        }
        let name = toml["package"]["name"].as_str().expect("a package has a name").to_owned();
        let features =
            toml.get("features").and_then(toml::Value::as_table).map_or_else(Vec::new, |f| f.keys().cloned().collect());
        let lints = toml.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        Self { folder: folder.to_owned(), name, dependencies, not_inherited, features, lints_inherited: lints == Some(true) }
    }
}

fn covers(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

/// Every workspace dependency is in the row of its crate, and every crate has a row.
pub fn check_layers(manifests: &[Manifest]) -> Vec<String> {
    let mut violations = Vec::new();
    for manifest in manifests {
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == manifest.name) else {
            violations.push(format!("{}: crate {} has no row in the layer table", manifest.folder, manifest.name));
            continue;
        };
        let ours = manifest.dependencies.iter().filter(|name| LAYERS.iter().any(|(known, _)| known == name));
        for dependency in ours.filter(|name| !allowed.contains(&name.as_str())) {
            violations.push(format!("{} must not depend on {dependency}; it may use {allowed:?}", manifest.name));
        }
    }
    violations
}

/// No crate uses a package that it must never use, or that has its home elsewhere.
pub fn check_never(manifests: &[Manifest]) -> Vec<String> {
    let mut violations = Vec::new();
    for manifest in manifests {
        for dependency in &manifest.dependencies {
            let homes = ONLY.iter().filter(|(pattern, _, _)| covers(pattern, dependency));
            for (_, homes, why) in homes.filter(|(_, homes, _)| !homes.contains(&manifest.name.as_str())) {
                violations.push(format!("{} uses {dependency}, which only {homes:?} may: {why}", manifest.name));
            }
            let bans = NEVER.iter().filter(|(crates, _, _)| crates.contains(&manifest.name.as_str()));
            for (_, _, why) in bans.filter(|(_, patterns, _)| patterns.iter().any(|pattern| covers(pattern, dependency))) {
                violations.push(format!("{} must never use {dependency}: {why}", manifest.name));
            }
        }
    }
    violations
}

/// Folder name equals crate name; versions are declared once, at the workspace; lints are inherited; no `sim` feature.
pub fn check_shape(manifests: &[Manifest]) -> Vec<String> {
    let mut violations = Vec::new();
    for manifest in manifests {
        let expected = match manifest.folder.strip_prefix("crates/") {
            Some(folder) => folder.to_owned(),
            None => format!("kontiki-{}", manifest.folder.rsplit('/').next().unwrap_or_default()),
        };
        if manifest.name != expected {
            violations.push(format!("{} holds crate {}; it should be {expected}", manifest.folder, manifest.name));
        }
        for dependency in &manifest.not_inherited {
            violations
                .push(format!("{}: {dependency} is declared here; declare it once in the workspace's table", manifest.name));
        }
        if !manifest.lints_inherited && manifest.name != OWN_LINTS {
            violations.push(format!("{} does not inherit the workspace's lints", manifest.name));
        }
        for feature in manifest.features.iter().filter(|feature| feature.contains("sim")) {
            violations.push(format!("{} has feature {feature}: no production crate knows that it is simulated", manifest.name));
        }
    }
    violations
}

/// Every pre-release in the workspace's table is pinned with `=`, and so are openraft's companions and bincode.
pub fn check_pins(workspace: &str) -> Vec<String> {
    let toml: toml::Table = workspace.parse().expect("the workspace manifest parses");
    let mut violations = Vec::new();
    for (name, value) in toml["workspace"]["dependencies"].as_table().expect("dependencies are a table") {
        let version = value.as_str().or_else(|| value.get("version").and_then(toml::Value::as_str));
        let Some(version) = version else { continue };
        let must = version.contains('-') || name == "bincode" || name.starts_with("openraft");
        if must && !version.starts_with('=') {
            violations.push(format!("{name} = \"{version}\" must be pinned with `=`: it would drift by itself"));
        }
        if version.contains('*') {
            violations.push(format!("{name} = \"{version}\" is a wildcard"));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, rest: &str) -> Manifest {
        Manifest::parse(&format!("crates/{name}"), &format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{rest}"))
    }

    #[test]
    fn a_dependency_upwards_is_found_in_every_section() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"] {
            let bad = manifest("kontiki-client", &format!("[{section}]\nkontiki-raft.workspace = true"));
            let found = check_layers(&[bad]);
            assert_eq!(found.len(), 1, "{section}");
            assert!(found[0].starts_with("kontiki-client must not depend on kontiki-raft"), "{found:?}");
        }
        let good = manifest("kontiki-raft", "[dependencies]\nkontiki-storage.workspace = true\nbytes.workspace = true");
        assert!(check_layers(&[good]).is_empty());
        assert_eq!(check_layers(&[manifest("kontiki-new", "")]).len(), 1);
    }

    #[test]
    fn a_forbidden_package_is_found_also_when_it_is_renamed() {
        let bad = manifest("kontiki-storage", "[dependencies]\nclock = { package = \"tokio\", version = \"1\" }");
        assert_eq!(check_never(&[bad]).len(), 1);
        let bad = manifest("kontiki-server", "[dependencies]\nopenraft-rt.workspace = true\nturmoil.workspace = true");
        assert_eq!(check_never(&[bad]).len(), 2);
        let bad = manifest("kontiki-raft", "[dependencies]\ntonic.workspace = true");
        assert_eq!(check_never(&[bad]).len(), 1);
        let good = manifest("kontiki-raft", "[dependencies]\nopenraft.workspace = true\ntokio.workspace = true");
        assert!(check_never(&[good]).is_empty());
    }

    #[test]
    fn shape_finds_foreign_names_local_versions_missing_lints_and_sim_features() {
        let text = "[package]\nname = \"other\"\n[dependencies]\nbytes = \"1\"\n[features]\nsim = []";
        assert_eq!(check_shape(&[Manifest::parse("crates/kontiki-x", text)]).len(), 4);
        assert!(check_shape(&[manifest("kontiki-x", "[dependencies]\nbytes.workspace = true")]).is_empty());
        let within =
            |name: &str| Manifest::parse("tests/checker", &format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true"));
        assert!(check_shape(&[within("kontiki-checker")]).is_empty());
        assert_eq!(check_shape(&[within("kontiki-tests-checker")]).len(), 1);
    }

    #[test]
    fn an_unpinned_alpha_is_found() {
        let table = |line: &str| format!("[workspace.dependencies]\n{line}");
        assert_eq!(check_pins(&table("openraft = { version = \"0.10.0-alpha.37\" }")).len(), 1);
        assert_eq!(check_pins(&table("new = \"2.0.0-rc.1\"")).len(), 1);
        assert_eq!(check_pins(&table("bincode = \"2.0.1\"")).len(), 1);
        assert_eq!(check_pins(&table("bytes = \"*\"")).len(), 1);
        assert!(check_pins(&table("openraft = \"=0.10.0-alpha.37\"\nbytes = \"1\"")).is_empty());
    }
}
