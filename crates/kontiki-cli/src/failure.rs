//! How the command line fails: one clear sentence on stderr, and an exit code that a script can act on.

use std::error::Error as _;
use std::fmt;

use kontiki::{Error, ErrorKind};

/// Exit codes, as `--help` lists them. A code exists only where a script would act differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The key is not there, or a condition did not hold.
    NotFound = 1,
    /// The request or the settings make no sense, or exceed a limit. clap uses the same code.
    Usage = 2,
    /// Certainly not done: try again.
    Unavailable = 3,
    /// Perhaps done, or under a session that has expired: look before you try again.
    Ambiguous = 4,
    /// Files, data directory, a taken address.
    Storage = 5,
    /// A defect of Kontiki.
    Internal = 70,
    /// Stopped by a signal (128 + SIGINT, as shells have it).
    Interrupted = 130,
}

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// One word for it, in JSON.
    pub kind: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Failure {
    /// The request makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, kind: "usage", message: message.into() }
    }

    /// What was asked for is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { exit: Exit::NotFound, kind: "not_found", message: message.into() }
    }

    /// A file or the settings.
    pub fn file(action: impl fmt::Display, error: &std::io::Error) -> Self {
        Self { exit: Exit::Storage, kind: "io", message: format!("{action} failed: {error}") }
    }

    /// A file that is not what it should be.
    pub fn bad_file(message: impl Into<String>) -> Self {
        Self { exit: Exit::Storage, kind: "file", message: message.into() }
    }

    /// The settings are wrong.
    pub fn config(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, kind: "config", message: message.into() }
    }

    /// Stopped by a signal.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self { exit: Exit::Interrupted, kind: "interrupted", message: message.into() }
    }

    /// Something that must not happen.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { exit: Exit::Internal, kind: "internal", message: message.into() }
    }

    /// The same failure with more to say, after the message.
    pub fn with_advice(mut self, advice: impl fmt::Display) -> Self {
        self.message = format!("{}; {advice}", self.message);
        self
    }

    /// As JSON, in one line.
    pub fn to_json(&self) -> String {
        let error = serde_json::json!({ "kind": self.kind, "message": self.message, "exit_code": self.exit as u8 });
        serde_json::json!({ "error": error }).to_string()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The exit code for each kind of error of the client and the node.
pub fn exit_of(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::ConditionFailed => Exit::NotFound,
        ErrorKind::Invalid | ErrorKind::Version | ErrorKind::HistoryChanged | ErrorKind::Config => Exit::Usage,
        ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Stopped => Exit::Unavailable,
        // A session that is gone: whether the request was applied is not known any more.
        ErrorKind::Ambiguous | ErrorKind::Session => Exit::Ambiguous,
        ErrorKind::Storage => Exit::Storage,
        // ErrorKind may grow; what is not known here is told as it is and counts as a defect.
        _ => Exit::Internal,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.kind() {
            // The settings are right, but this machine does not allow them: the address is taken.
            ErrorKind::Config if error.source().is_some_and(|source| source.is::<std::io::Error>()) => Exit::Storage,
            kind => exit_of(kind),
        };
        Self { exit, kind: error.kind().name(), message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_exit_code_that_help_promises() {
        let table = [
            (ErrorKind::ConditionFailed, 1),
            (ErrorKind::Invalid, 2),
            (ErrorKind::Version, 2),
            (ErrorKind::HistoryChanged, 2),
            (ErrorKind::Unavailable, 3),
            (ErrorKind::Overloaded, 3),
            (ErrorKind::Stopped, 3),
            (ErrorKind::Ambiguous, 4),
            (ErrorKind::Session, 4),
            (ErrorKind::Storage, 5),
            (ErrorKind::Config, 2),
            (ErrorKind::Internal, 70),
        ];
        for (kind, code) in table {
            assert_eq!(exit_of(kind) as u8, code, "{kind:?}");
        }
    }

    #[test]
    fn a_taken_address_is_no_mistake_in_the_settings() {
        let taken = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        assert_eq!(Failure::from(Error::with_source(ErrorKind::Config, "taken", taken)).exit, Exit::Storage);
        assert_eq!(Failure::from(Error::new(ErrorKind::Config, "wrong")).exit, Exit::Usage);
    }

    #[test]
    fn a_failure_in_json_says_kind_message_and_code() {
        let failure = Failure::from(Error::new(ErrorKind::Unavailable, "no node answers"));
        assert_eq!(failure.to_json(), r#"{"error":{"exit_code":3,"kind":"unavailable","message":"no node answers"}}"#);
        assert_eq!(failure.with_advice("wait").message, "no node answers; wait");
    }
}
