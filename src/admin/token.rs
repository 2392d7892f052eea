//! The operator's bearer token. One decision: only its digest is kept in memory and digests are compared in constant time, so
//! that neither a core dump nor a clock gives it away. Knows nothing of what it opens.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};

use crate::private;

/// Random bytes of a made one.
const BYTES: usize = 32;
/// Characters of a configured one, at least: what 128 bits take in base64.
const LEAST: usize = 22;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file could not be read or written.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others can read the file.
    #[error("{0}: others can read it; `chmod 600` it, and remove it to have another one made")]
    Readable(PathBuf),
    /// The file holds none.
    #[error("{0}: holds no operator's token; remove it, and the next start makes another one")]
    Cut(PathBuf),
    /// Guessable.
    #[error("an operator's token needs at least {LEAST} characters; this one has {0}")]
    Short(usize),
    /// The random generator failed.
    #[error("the random generator failed")]
    Random,
}

/// The token, as it is compared.
pub struct Token(digest::Digest);

impl Token {
    /// This one.
    ///
    /// # Errors
    /// [`TokenError::Short`].
    pub fn new(text: &[u8]) -> Result<Token, TokenError> {
        if text.len() < LEAST { Err(TokenError::Short(text.len())) } else { Ok(Token(digest_of(text))) }
    }

    /// The one in a file; made where there is none, for its owner alone.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn load_or_create(path: &Path) -> Result<Token, TokenError> {
        let failed = |source| TokenError::File { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(found) if found.permissions().mode() & 0o077 != 0 => Err(TokenError::Readable(path.to_owned())),
            Ok(_) => {
                let text = fs::read_to_string(path).map_err(failed)?;
                Token::new(text.trim_end().as_bytes()).map_err(|_| TokenError::Cut(path.to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; BYTES];
                rand::fill(&mut bytes).map_err(|_| TokenError::Random)?;
                let text = URL_SAFE_NO_PAD.encode(bytes);
                private::make(path, format!("{text}\n").as_bytes(), 0o600).map_err(failed)?;
                Token::new(text.as_bytes())
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// Whether a request brings it: one `Authorization` line, `Bearer` and the token (RFC 6750 §2.1).
    pub fn is_brought(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return false };
        let Some((scheme, token)) = line.as_bytes().split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ")
            && constant_time::verify_slices_are_equal(digest_of(token).as_ref(), self.0.as_ref()).is_ok()
    }
}

fn digest_of(text: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, text)
}
