//! Logs of the process itself: text or JSON on stderr, with a level that can be changed while it runs.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Environment variable with the level, when the command line names none.
pub const LEVEL_VARIABLE: &str = "HEADWATER_LOG";

const DEFAULT_LEVEL: &str = "info";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    #[error("log level {level:?} is not understood (try info, debug, or info,headwater_gateway=trace)")]
    Level { level: String },
    #[error("logs are set up already")]
    AlreadySetUp,
}

/// Sets up the logs of the process. The level is `level`, else that of `HEADWATER_LOG`, else `info`.
///
/// # Errors
/// [`TelemetryError::Level`] names the text; nothing is set up then. Only the first call of a process succeeds.
pub fn init(format: LogFormat, level: Option<&str>) -> Result<LogLevel, TelemetryError> {
    let from_environment = std::env::var(LEVEL_VARIABLE).ok().filter(|level| !level.trim().is_empty());
    let level = level.or(from_environment.as_deref()).unwrap_or(DEFAULT_LEVEL);
    let (filter, handle) = LogLevel::new(level)?;
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        LogFormat::Text => fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|_| TelemetryError::AlreadySetUp)?;
    Ok(handle)
}

/// The level of the logs, to be read and changed while the process runs; cheap to clone.
#[derive(Debug, Clone)]
pub struct LogLevel {
    handle: reload::Handle<EnvFilter, Registry>,
    /// As it was written.
    text: Arc<Mutex<String>>,
}

impl LogLevel {
    pub(crate) fn new(level: &str) -> Result<(reload::Layer<EnvFilter, Registry>, Self), TelemetryError> {
        let (layer, handle) = reload::Layer::new(parse(level)?);
        Ok((layer, Self { handle, text: Arc::new(Mutex::new(level.trim().to_owned())) }))
    }

    /// Changes the level: `debug`, or `info,headwater_gateway=trace`.
    ///
    /// # Errors
    /// [`TelemetryError::Level`] names the text; the level stays as it was.
    pub fn set(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = parse(level)?;
        // Fails only when the subscriber is gone, with the process.
        let _ = self.handle.reload(filter);
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = level.trim().to_owned();
        Ok(())
    }

    /// The level as it was written last.
    pub fn current(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn parse(level: &str) -> Result<EnvFilter, TelemetryError> {
    let refused = || TelemetryError::Level { level: level.chars().take(256).collect() };
    // EnvFilter takes any bare word for the name of a module, and would then show nothing of all others.
    let understood = |directive: &str| match directive.split_once('=') {
        Some((_, level)) => level.parse::<LevelFilter>().is_ok() && !level.is_empty(),
        None => directive.parse::<LevelFilter>().is_ok() && !directive.is_empty(),
    };
    // Directives for spans may hold commas of their own.
    if level.contains('[') {
        return EnvFilter::builder().parse(level.trim()).map_err(|_| refused());
    }
    let directives: Vec<&str> = level.split(',').map(str::trim).collect();
    if !directives.iter().all(|directive| understood(directive)) {
        return Err(refused());
    }
    EnvFilter::builder().parse(directives.join(",")).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_level_changes_while_the_process_runs() {
        let (filter, level) = LogLevel::new("info").unwrap();
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::registry().with(filter).with(fmt::layer().json().with_writer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("hidden");
            tracing::info!(port = 80, "listening");
            level.set(" debug ").unwrap();
            tracing::debug!("shown");
            assert!(matches!(level.set("info,a=nonsense"), Err(TelemetryError::Level { .. })));
            assert_eq!(level.current(), "debug");
            tracing::debug!("still shown");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let messages: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["fields"]["message"].to_string())
            .collect();
        assert_eq!(messages, ["\"listening\"", "\"shown\"", "\"still shown\""]);
    }

    #[test]
    fn a_level_that_is_none_is_named() {
        for level in ["verbose", "info,", "a=", "a=b", "info,headwater_gateway", "a[b", ""] {
            let error = init(LogFormat::Text, Some(level)).unwrap_err();
            assert!(error.to_string().starts_with(&format!("log level {level:?} is not understood")), "{error}");
        }
        for level in ["OFF", "warn, a::b=trace", "info,a[span{field=1}]=debug"] {
            assert!(parse(level).is_ok(), "{level}");
        }
    }
}
