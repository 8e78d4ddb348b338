//! What can be set about a client. Every field has a default that suits a service on a local network.

use std::time::Duration;

use kontiki_types::{Error, ErrorKind};

/// Settings of a [`crate::Client`].
#[derive(Clone, Debug, PartialEq)]
pub struct ClientOptions {
    /// The whole call with all its retries (for a scan: each page). Default 10 s. `Client::with_timeout` changes it for some calls.
    pub timeout: Duration,
    /// One attempt at one node; then another node is tried. Default 2 s.
    pub attempt_timeout: Duration,
    /// Making one connection. Default 1 s.
    pub connect_timeout: Duration,
    /// An HTTP/2 ping is sent on every connection this often, also while it is idle. A connection that has died without a word is
    /// found by nothing else. Default 1 s.
    pub keep_alive_interval: Duration,
    /// A ping not answered for this long closes the connection. Default 1 s.
    pub keep_alive_timeout: Duration,
    /// The wait before the first repeat; it doubles with each, and a random part of it is waited. Default 10 ms.
    pub backoff_min: Duration,
    /// The longest wait before a repeat. Default 250 ms: a new leader is elected in about a second, and is then found soon.
    pub backoff_max: Duration,
    /// How many repeats may be made in a burst. Each call that succeeds at once earns a fifth of one back; while none are left every
    /// repeat waits `backoff_max`, so that a struggling cluster is not buried. Default 256.
    pub retry_budget: u32,
    /// So many failures to reach a node in a row open its circuit breaker. Default 3.
    pub breaker_failures: u32,
    /// An open breaker lets one attempt through after this long. Default 1 s.
    pub breaker_open: Duration,
    /// Seed of the jitter and of the choice among replicas, for runs that can be replayed. Default: random.
    pub seed: Option<u64>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            keep_alive_interval: Duration::from_secs(1),
            keep_alive_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(250),
            retry_budget: 256,
            breaker_failures: 3,
            breaker_open: Duration::from_secs(1),
            seed: None,
        }
    }
}

impl ClientOptions {
    /// Checks that the values make sense together. `ErrorKind::Config` names the one that does not.
    pub fn check(&self) -> Result<(), Error> {
        let positive = [
            ("timeout", self.timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("connect_timeout", self.connect_timeout),
            ("keep_alive_interval", self.keep_alive_interval),
            ("keep_alive_timeout", self.keep_alive_timeout),
            ("backoff_min", self.backoff_min),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| value.is_zero()) {
            return Err(Error::new(ErrorKind::Config, format!("client option {name} is 0; give it a duration above 0")));
        }
        if self.backoff_max < self.backoff_min {
            let message = format!(
                "client option backoff_max is {:?}, less than backoff_min, {:?}; make it at least that",
                self.backoff_max, self.backoff_min
            );
            return Err(Error::new(ErrorKind::Config, message));
        }
        Ok(())
    }

    /// The seed given, or one drawn now.
    #[allow(clippy::disallowed_methods, reason = "the one place where a client that was given no seed draws one")]
    pub(crate) fn seed_or_random(&self) -> u64 {
        self.seed.unwrap_or_else(|| rand::Rng::random(&mut <rand::rngs::SmallRng as rand::SeedableRng>::from_os_rng()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_and_nonsense_is_named() {
        ClientOptions::default().check().expect("defaults make sense");
        let zero = ClientOptions { attempt_timeout: Duration::ZERO, ..Default::default() };
        let error = zero.check().expect_err("0");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("attempt_timeout"), "{error}");
        let crossed = ClientOptions { backoff_max: Duration::from_millis(1), ..Default::default() };
        assert!(crossed.check().expect_err("crossed").to_string().contains("backoff_max"));
    }
}
