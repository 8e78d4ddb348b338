//! How Raft is tuned. The defaults suit one data centre; all replicas of a cluster must use the same timers, because leases and
//! elections compare them.

use kontiki_types::{Error, ErrorKind};
use openraft::{Config, SnapshotPolicy};

/// Raft timers, in ms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftOptions {
    /// How often a leader shows that it lives.
    pub heartbeat_ms: u64,
    /// Shortest random part of an election timeout.
    pub election_min_ms: u64,
    /// Longest random part, and the leader's lease: a follower starts an election after this plus a random time between both.
    pub election_max_ms: u64,
}

impl Default for RaftOptions {
    /// A dead leader is replaced after 0.95 to 1.2 s.
    fn default() -> Self {
        Self { heartbeat_ms: 100, election_min_ms: 350, election_max_ms: 600 }
    }
}

impl RaftOptions {
    /// Checks that the timers fit together. `ErrorKind::Config` names them if they do not.
    pub fn check(&self) -> Result<(), Error> {
        self.config("kontiki".to_owned()).map(drop)
    }

    /// The openraft configuration, validated. What differs from openraft's defaults, and why, is in OPENRAFT section 9 of the
    /// design; the two that are about safety:
    /// leader restore is off, because a leader that resumes its own term after a crash may have a shorter log than what it has
    /// acknowledged; and snapshots and purges are never triggered by openraft, because only we know what is durably applied.
    pub(crate) fn config(&self, cluster_name: String) -> Result<Config, Error> {
        let config = Config {
            cluster_name,
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            heartbeat_min_interval: Some(self.heartbeat_ms / 2),
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            quorum_loss_probe_interval: Some(2 * self.election_max_ms),
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            max_payload_entries: 300,
            max_append_entries: Some(4096),
            api_channel_size: Some(4096),
            backoff: "100ms 200ms 400ms 800ms 1s".to_owned(),
            ..Config::default()
        };
        config.validate().map_err(|error| {
            let message = format!(
                "the Raft timers do not fit together: {error}; heartbeat_ms is {}, election_min_ms {}, election_max_ms {}",
                self.heartbeat_ms, self.election_min_ms, self.election_max_ms
            );
            Error::new(ErrorKind::Config, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_leader_restore_is_off() {
        let config = RaftOptions::default().config("c".into()).expect("valid");
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.enable_pre_vote, Some(true));
    }

    #[test]
    fn timers_that_do_not_fit_are_refused_with_their_values() {
        let options = RaftOptions { heartbeat_ms: 500, election_min_ms: 300, election_max_ms: 600 };
        let error = options.config("c".into()).expect_err("heartbeat above election");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("heartbeat_ms is 500"), "{error}");
    }
}
