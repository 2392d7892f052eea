//! Reading the configuration file. One decision: the folder that it was named in, made absolute, is where its relative paths begin,
//! so that the gateway starts from any working directory; links are not followed, for what stands behind one (`current -> v2`, a
//! mounted ConfigMap) is exchanged, and the sessions beside it are not. Knows nothing of what is in it.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigErrors};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// Not readable.
    #[error("portcullis: {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not right.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
}

/// Read and check.
pub(super) fn load(path: &Path) -> Result<Config, LoadError> {
    let failed = |source| LoadError::File { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let full = std::path::absolute(path).map_err(failed)?;
    let base = full.parent().unwrap_or(Path::new("/"));
    Ok(Config::parse(&text, &name(path), base)?)
}

/// What it is called in messages.
pub(super) fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
