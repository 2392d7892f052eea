//! The session cookie's value, and the keys it is made with. One decision: a value carries a MAC, so that garbage is refused
//! without asking the store, and the store holds only a keyed hash of the id: whoever reads one of the two cannot make the
//! other. Knows nothing of cookie attributes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::{constant_time, hkdf, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::private;

use super::{SessionKey, UserKey};

const VERSION: u8 = 1;
const ID_BYTES: usize = 20;
const MAC_BYTES: usize = 16;
const PLAIN_BYTES: usize = 3 + ID_BYTES;
const VALUE_BYTES: usize = PLAIN_BYTES + MAC_BYTES;
/// 39 bytes in base64 without padding.
pub(super) const VALUE_CHARACTERS: usize = 52;
const MASTER_BYTES: usize = 32;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key file could not be read or written.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The key file is not one.
    #[error("{0}: is not a key file of this program; put a copy of it back, or remove it, and everybody signs in anew")]
    Malformed(PathBuf),
    /// The secret is guessable.
    #[error("a secret needs at least 32 bytes; this one has {0}")]
    Short(usize),
    /// The system's random generator failed.
    #[error("the random generator failed")]
    Random,
}

/// One master secret, from which every key is derived by name (RFC 5869), so that one file is all there is to keep.
#[derive(Clone)]
pub struct SessionKeys {
    master: [u8; MASTER_BYTES],
}

impl SessionKeys {
    /// Keys that live as long as the process.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn random() -> Result<SessionKeys, KeyError> {
        let mut master = [0; MASTER_BYTES];
        rand::fill(&mut master).map_err(|_| KeyError::Random)?;
        Ok(SessionKeys { master })
    }

    /// Keys from a configured secret. The text of a key file is those very keys: cookies stay good when a deployment moves from a
    /// store of its own to a shared one.
    ///
    /// # Errors
    /// [`KeyError::Short`] below 32 bytes: less than the hash is less than its strength.
    pub fn from_secret(secret: &[u8]) -> Result<SessionKeys, KeyError> {
        if secret.len() < MASTER_BYTES {
            return Err(KeyError::Short(secret.len()));
        }
        if let Some(master) = URL_SAFE_NO_PAD.decode(secret).ok().and_then(|bytes| bytes.try_into().ok()) {
            return Ok(SessionKeys { master });
        }
        Ok(SessionKeys { master: expand(secret, "portcullis/master/1") })
    }

    /// Keys from a file; made on first start, readable by its owner alone. Losing it signs everybody out.
    ///
    /// # Errors
    /// [`KeyError`] of file or generator.
    pub fn load_or_create(path: &Path) -> Result<SessionKeys, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        match fs::read_to_string(path) {
            Ok(text) => {
                let bytes = URL_SAFE_NO_PAD.decode(text.trim_end()).ok();
                let master = bytes.and_then(|bytes| bytes.try_into().ok());
                master.map(|master| SessionKeys { master }).ok_or_else(|| KeyError::Malformed(path.to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = SessionKeys::random()?;
                let text = format!("{}\n", URL_SAFE_NO_PAD.encode(keys.master));
                private::make(path, text.as_bytes(), 0o600).map_err(failed)?;
                Ok(keys)
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// A key for the purpose that `label` names.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        expand(&self.master, label)
    }

    /// The same of one of the sites that share the secret; of the one without a name it is that of all.
    pub fn derive_for(&self, label: &str, site: &str) -> [u8; 32] {
        if site.is_empty() { self.derive(label) } else { self.derive(&format!("{label}\0{site}")) }
    }
}

fn expand(secret: &[u8], label: &str) -> [u8; 32] {
    let mut key = [0; 32];
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"portcullis");
    let labels = [label.as_bytes()];
    salt.extract(secret)
        .expand(&labels, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("32 bytes are one block of HKDF-SHA256");
    key
}

/// Makes and opens cookie values.
#[derive(Clone)]
pub struct CookieCodec {
    mac: hmac::Key,
    store: hmac::Key,
    site: Vec<u8>,
}

impl CookieCodec {
    /// `site` separates sites that share keys: a cookie of one is garbage to another.
    pub fn new(keys: &SessionKeys, site: &str) -> CookieCodec {
        let key = |label| hmac::Key::new(hmac::HMAC_SHA256, &keys.derive(label));
        let mut prefix = b"portcullis/sid/1\0".to_vec();
        prefix.extend_from_slice(site.as_bytes());
        prefix.push(0);
        CookieCodec { mac: key("portcullis/cookie/1"), store: key("portcullis/store/1"), site: prefix }
    }

    /// A new id of a user's: the cookie's value, and the key it is stored under. Both carry the user's shard, so that any node
    /// finds the part of the store that holds the session and everything else of the user.
    ///
    /// # Errors
    /// [`KeyError::Random`]: a guessable id is worse than none.
    pub fn mint(&self, user: UserKey) -> Result<(String, SessionKey), KeyError> {
        let mut value = [0; VALUE_BYTES];
        value[..3].copy_from_slice(&[VERSION, 0, user.shard()]);
        rand::fill(&mut value[3..PLAIN_BYTES]).map_err(|_| KeyError::Random)?;
        let mac = self.tag(&value[..PLAIN_BYTES]);
        value[PLAIN_BYTES..].copy_from_slice(&mac);
        Ok((URL_SAFE_NO_PAD.encode(value), self.key_of(&value[2..PLAIN_BYTES])))
    }

    /// The key of a value that this gateway made; `None` for anything else. Length and alphabet are checked before any
    /// computation, and a value has one spelling: the decoder refuses stray last bits.
    pub fn open(&self, cookie: &str) -> Option<SessionKey> {
        if cookie.len() != VALUE_CHARACTERS {
            return None;
        }
        let mut value = [0; VALUE_BYTES];
        let written = URL_SAFE_NO_PAD.decode_slice(cookie, &mut value).ok()?;
        if written != VALUE_BYTES || value[..2] != [VERSION, 0] {
            return None;
        }
        // In constant time: a comparison that stops at the first difference tells an attacker how far a guess got.
        constant_time::verify_slices_are_equal(&self.tag(&value[..PLAIN_BYTES]), &value[PLAIN_BYTES..]).ok()?;
        Some(self.key_of(&value[2..PLAIN_BYTES]))
    }

    fn tag(&self, plain: &[u8]) -> [u8; MAC_BYTES] {
        truncated(&self.mac, &[&self.site, plain])
    }

    /// The last byte is the shard itself; 120 bits of a keyed hash are left, which nobody collides with.
    fn key_of(&self, shard_and_id: &[u8]) -> SessionKey {
        let mut key = truncated(&self.store, &[b"portcullis/sidh/1\0", shard_and_id]);
        key[15] = shard_and_id[0];
        SessionKey(key)
    }
}

fn truncated(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 16] {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    let mut short = [0; 16];
    short.copy_from_slice(&context.sign().as_ref()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::{CookieCodec, ID_BYTES, KeyError, PLAIN_BYTES, SessionKeys, VALUE_CHARACTERS};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use std::collections::HashSet;
    use std::os::unix::fs::PermissionsExt;

    use crate::session::UserKey;

    const ALICE: UserKey = UserKey([0xa1; 16]);

    #[test]
    fn a_cookie_opens_to_the_key_it_was_minted_with() {
        let codec = CookieCodec::new(&SessionKeys::random().unwrap(), "a");
        let (value, key) = codec.mint(ALICE).unwrap();
        assert_eq!(value.len(), VALUE_CHARACTERS);
        assert!(codec.open(&value) == Some(key));
        assert_eq!(key.shard(), ALICE.shard(), "the session is found where its user is");
        assert!(codec.mint(ALICE).unwrap().1 != key);
    }

    /// attacks: line 2. 160 bits of the system's generator: no id comes twice, and no byte is likelier than another.
    #[test]
    fn ids_are_uniform_and_none_comes_twice() {
        const IDS: usize = 100_000;
        let codec = CookieCodec::new(&SessionKeys::random().unwrap(), "a");
        let (mut seen, mut counts) = (HashSet::new(), vec![[0_u32; 256]; ID_BYTES]);
        for _ in 0..IDS {
            let id = URL_SAFE_NO_PAD.decode(codec.mint(ALICE).unwrap().0).unwrap()[3..PLAIN_BYTES].to_vec();
            id.iter().zip(&mut counts).for_each(|(byte, counts)| counts[usize::from(*byte)] += 1);
            assert!(seen.insert(id), "one came twice");
        }
        let expected = IDS as f64 / 256.0;
        for (place, counts) in counts.iter().enumerate() {
            let squared: f64 = counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
            // Pearson's, of 255 degrees of freedom: beyond these once in a hundred million runs.
            assert!((120.0..420.0).contains(&squared), "byte {place}: {squared}");
        }
    }

    /// I27
    #[test]
    fn flipping_any_bit_makes_it_garbage() {
        let codec = CookieCodec::new(&SessionKeys::random().unwrap(), "a");
        let raw = URL_SAFE_NO_PAD.decode(codec.mint(ALICE).unwrap().0).unwrap();
        for bit in 0..raw.len() * 8 {
            let mut flipped = raw.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(codec.open(&URL_SAFE_NO_PAD.encode(&flipped)).is_none(), "bit {bit}");
        }
        for garbage in ["", "x", &"A".repeat(52), &"A".repeat(51), &"=".repeat(52), &"é".repeat(26)] {
            assert!(codec.open(garbage).is_none(), "{garbage}");
        }
    }

    #[test]
    fn another_site_or_another_key_refuses_it() {
        let keys = SessionKeys::random().unwrap();
        let (value, _) = CookieCodec::new(&keys, "a").mint(ALICE).unwrap();
        assert!(CookieCodec::new(&keys, "b").open(&value).is_none());
        assert!(CookieCodec::new(&SessionKeys::random().unwrap(), "a").open(&value).is_none());
    }

    /// Who is signed in stays so where a version comes that knows of sites.
    #[test]
    fn a_site_without_a_name_has_the_keys_of_before_there_were_any() {
        let keys = SessionKeys::random().unwrap();
        assert_eq!(keys.derive_for("x", ""), keys.derive("x"));
        assert!(
            keys.derive_for("x", "a") != keys.derive("x") && keys.derive_for("x", "a") != keys.derive_for("x", "b")
        );
    }

    #[test]
    fn keys_are_made_once_and_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let made = SessionKeys::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SessionKeys::load_or_create(&path).unwrap().derive("x"), made.derive("x"));
        assert_ne!(made.derive("x"), made.derive("y"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(SessionKeys::from_secret(text.trim_end().as_bytes()).unwrap().derive("x"), made.derive("x"));
        std::fs::write(&path, "no key").unwrap();
        assert!(matches!(SessionKeys::load_or_create(&path), Err(KeyError::Malformed(_))));
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(matches!(SessionKeys::from_secret(&[7; 31]), Err(KeyError::Short(31))));
        assert!(SessionKeys::from_secret(&[7; 32]).is_ok());
    }
}
