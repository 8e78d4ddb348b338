//! Real documents of real sizes that every build has at hand: the packages it was made from, as `cargo metadata` describes them.

use std::collections::BTreeMap;
use std::path::Path;

use tokio::process::Command;

/// `name/version` to the package's document, as JSON text.
pub type Catalogue = BTreeMap<String, String>;

/// The catalogue of the build of the workspace at `root`: the packages that are compiled for this machine.
///
/// # Errors
/// If cargo cannot say.
pub async fn of_this_build(root: &Path) -> Result<Catalogue, String> {
    let version = output(Command::new("rustc").arg("-vV"), root).await?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc -vV names no host")?;
    let args = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    // What was built is on this machine already, unless a development dependency was not needed yet.
    let offline = output(Command::new("cargo").args(args).arg("--offline"), root).await;
    let json = match offline {
        Ok(json) => json,
        Err(_) => output(Command::new("cargo").args(args), root).await?,
    };
    parse(&json)
}

async fn output(command: &mut Command, root: &Path) -> Result<String, String> {
    let done = command.current_dir(root).output().await.map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !done.status.success() {
        return Err(format!("cargo failed:\n{}", String::from_utf8_lossy(&done.stderr)));
    }
    String::from_utf8(done.stdout).map_err(|error| error.to_string())
}

/// The packages in the output of `cargo metadata`.
fn parse(json: &str) -> Result<Catalogue, String> {
    let metadata: serde_json::Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("the metadata has no packages")?;
    let entry = |package: &serde_json::Value| {
        let word = |name: &str| package[name].as_str().ok_or_else(|| format!("a package has no {name}"));
        Ok((format!("{}/{}", word("name")?, word("version")?), package.to_string()))
    };
    packages.iter().map(entry).collect()
}

/// Keys that cut a catalogue into `parts` of about the same number of documents.
pub fn even_cuts(catalogue: &Catalogue, parts: usize) -> Vec<String> {
    let mut cuts: Vec<String> = (1..parts)
        .filter_map(|part| catalogue.keys().nth(part * catalogue.len() / parts))
        // Between packages, not between versions of one.
        .map(|key| key.split('/').next().unwrap_or(key).to_owned())
        .collect();
    cuts.dedup();
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_become_documents_and_nonsense_is_named() {
        let json = r#"{"packages":[{"name":"b","version":"1.0.0","x":[1]},{"name":"a","version":"0.1.0"}]}"#;
        let catalogue = parse(json).expect("parses");
        assert_eq!(catalogue.keys().collect::<Vec<_>>(), ["a/0.1.0", "b/1.0.0"]);
        assert_eq!(catalogue["b/1.0.0"], r#"{"name":"b","version":"1.0.0","x":[1]}"#);
        assert!(parse("{}").expect_err("none").contains("no packages"));
        assert!(parse(r#"{"packages":[{"name":"b"}]}"#).expect_err("no version").contains("version"));
    }

    #[test]
    fn cuts_lie_between_packages_and_rise() {
        let catalogue: Catalogue = (0..90).map(|at| (format!("p{:02}/{}", at / 3, at % 3), String::new())).collect();
        assert_eq!(even_cuts(&catalogue, 3), ["p10", "p20"]);
        assert_eq!(even_cuts(&catalogue, 1), Vec::<String>::new());
        assert!(even_cuts(&catalogue, 60).windows(2).all(|pair| pair[0] < pair[1]));
    }
}
