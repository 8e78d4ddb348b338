//! Small things people type: durations, ids, read levels, tokens.

use std::time::Duration;

use kontiki::{ClusterId, NodeId, PartitionId, ReadLevel, Token, Version};

/// A duration: `500ms`, `10s`, `2m`, or a bare number of seconds.
pub fn duration(typed: &str) -> Result<Duration, String> {
    let split = typed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(typed.len());
    let (number, unit) = typed.split_at(split);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("the unit `{other}` is none of ms, s, m, h")),
    };
    let number: f64 = number.parse().map_err(|_| "give a number with a unit, such as 500ms, 10s or 2m".to_owned())?;
    let duration = Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())?;
    if duration.is_zero() { Err("give a duration above 0".to_owned()) } else { Ok(duration) }
}

/// A number of bytes: `64MiB`, `512KiB`, `2GiB`, or a bare number.
pub fn bytes(typed: &str) -> Result<u64, String> {
    let split = typed.find(|c: char| !c.is_ascii_digit()).unwrap_or(typed.len());
    let (number, unit) = typed.split_at(split);
    let scale = match unit {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "GiB" => 1024 * 1024 * 1024,
        other => return Err(format!("the unit `{other}` is none of B, KiB, MiB, GiB")),
    };
    let number: u64 = number.parse().map_err(|_| "give a whole number with a unit, such as 64MiB".to_owned())?;
    number.checked_mul(scale).ok_or_else(|| format!("{typed} is more than there can be"))
}

/// A partition: `p3` or `3`.
pub fn partition(typed: &str) -> Result<PartitionId, String> {
    id(typed, "p")
        .map(PartitionId)
        .ok_or_else(|| "a partition is a number from 1, such as 3 or p3; `kontiki partitions` lists them".to_owned())
}

/// A node: `n2` or `2`.
pub fn node(typed: &str) -> Result<NodeId, String> {
    id(typed, "n").map(NodeId).ok_or_else(|| "a node is a number from 1, such as 2 or n2; `kontiki nodes` lists them".to_owned())
}

fn id(typed: &str, prefix: &str) -> Option<u64> {
    typed.strip_prefix(prefix).unwrap_or(typed).parse().ok().filter(|id| *id > 0)
}

/// A read level: `linearizable`, `stale:MS`, `at-least:TOKEN`, `snapshot:VERSION`.
pub fn level(typed: &str) -> Result<ReadLevel, String> {
    let (name, argument) = typed.split_once(':').unwrap_or((typed, ""));
    match name {
        "linearizable" if argument.is_empty() => Ok(ReadLevel::Linearizable),
        "stale" => {
            let age_ms_max =
                argument.parse().map_err(|_| "give the greatest age in milliseconds, such as stale:500".to_owned())?;
            Ok(ReadLevel::BoundedStale { age_ms_max })
        }
        "at-least" => token(argument).map(ReadLevel::AtLeast),
        "snapshot" => match argument.parse() {
            Ok(version) => Ok(ReadLevel::Snapshot(Version(version))),
            Err(_) => Err("give the version that a reply has named, such as snapshot:115000000000000000".to_owned()),
        },
        _ => Err("give linearizable, stale:MS, at-least:TOKEN or snapshot:VERSION".to_owned()),
    }
}

/// A token as text: `PARTITION@VERSION`, separated by commas, after `CLUSTER/` if that is known.
pub fn token(typed: &str) -> Result<Token, String> {
    let mut token = Token::default();
    let seen = match typed.split_once('/') {
        None => typed,
        Some((cluster, seen)) => {
            let id = ClusterId::parse(cluster);
            token.cluster =
                Some(id.ok_or_else(|| {
                    format!("`{cluster}` before the / is no cluster id (a UUID); `status --output json` shows it")
                })?);
            seen
        }
    };
    for part in seen.split(',') {
        let parsed = part.split_once('@').and_then(|(at, version)| Some((partition(at).ok()?, version.parse().ok()?)));
        let Some((partition, version)) = parsed else {
            return Err(format!(
                "`{part}` is not of the form PARTITION@VERSION, such as 3@115000000000000000; `put --output json` prints the token of its write"
            ));
        };
        token.observe(partition, Version(version));
    }
    Ok(token)
}

/// As `token` reads it.
pub fn show_token(token: &Token) -> String {
    let parts: Vec<_> = token.seen.iter().map(|(partition, version)| format!("{}@{version}", partition.0)).collect();
    let cluster = token.cluster.map(|cluster| format!("{cluster}/")).unwrap_or_default();
    cluster + &parts.join(",")
}

/// Bytes for people: `512 B`, `1.5 KiB`, `64.0 MiB`.
pub fn show_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut size = bytes as f64;
    let mut unit = None;
    for next in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = Some(next);
    }
    unit.map_or_else(|| format!("{bytes} B"), |unit| format!("{size:.1} {unit}"))
}

/// A count of rows for people: `1 row`, `7 rows`.
pub fn show_rows(rows: u64) -> String {
    if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") }
}

/// A span of time for people: `45 s`, `12 m 5 s`, `3 h 20 m`, `2 d 4 h`.
pub fn show_ms(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} m {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} m", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (typed, ms) in [("500ms", 500), ("10s", 10_000), ("10", 10_000), ("1.5s", 1_500), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(typed), Ok(Duration::from_millis(ms)), "{typed}");
        }
        for bad in ["", "s", "-1s", "1d", "0", "0.0ms", "1e3", "1 s", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_of_bytes() {
        for (typed, expected) in [("512", 512), ("7B", 7), ("4KiB", 4096), ("64MiB", 64 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(bytes(typed), Ok(expected), "{typed}");
        }
        for bad in ["", "MiB", "-1", "1.5MiB", "1MB", "1 MiB", "18446744073709551615GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_with_and_without_their_letter() {
        assert_eq!(partition("p3"), Ok(PartitionId(3)));
        assert_eq!(node("2"), Ok(NodeId(2)));
        for bad in ["", "p", "0", "p0", "n3", "3p", "-1"] {
            assert!(partition(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn levels_and_tokens_read_back() {
        assert_eq!(level("linearizable"), Ok(ReadLevel::Linearizable));
        assert_eq!(level("stale:250"), Ok(ReadLevel::BoundedStale { age_ms_max: 250 }));
        assert_eq!(level("snapshot:7"), Ok(ReadLevel::Snapshot(Version(7))));
        let mut expected = Token::default();
        expected.observe(PartitionId(2), Version(9));
        expected.observe(PartitionId(10), Version(11));
        assert_eq!(level("at-least:2@9,p10@11"), Ok(ReadLevel::AtLeast(expected.clone())));
        assert_eq!(token(&show_token(&expected)), Ok(expected.clone()));
        expected.cluster = Some(ClusterId([7; 16]));
        assert_eq!(show_token(&expected), "07070707-0707-0707-0707-070707070707/2@9,10@11");
        assert_eq!(token(&show_token(&expected)), Ok(expected));
        for bad in [
            "",
            "stale",
            "stale:",
            "stale:-1",
            "at-least:",
            "at-least:2",
            "at-least:2@",
            "at-least:x@1",
            "at-least:x/2@9",
            "snapshot:",
            "eventual",
            "linearizable:1",
        ] {
            assert!(level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_spans_for_people() {
        assert_eq!(show_bytes(512), "512 B");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(64 << 20), "64.0 MiB");
        assert_eq!((show_rows(0), show_rows(1)), ("0 rows".to_owned(), "1 row".to_owned()));
        assert_eq!(show_ms(45_999), "45 s");
        assert_eq!(show_ms(725_000), "12 m 5 s");
        assert_eq!(show_ms(12_000_000), "3 h 20 m");
        assert_eq!(show_ms(187_200_000), "2 d 4 h");
    }
}
