//! What may be read by nobody else while it is out of our hands: AES-256-GCM-SIV, which forgives a nonce that comes twice
//! (RFC 8452). One decision: a text is sealed for one place, and opens nowhere else. Knows nothing of what is sealed.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;

/// Seals and opens.
pub(super) struct Sealer(LessSafeKey);

impl Sealer {
    /// With a key of this purpose alone.
    pub(super) fn new(key: &[u8; 32]) -> Sealer {
        let key = UnboundKey::new(&AES_256_GCM_SIV, key).expect("32 bytes are a key of AES-256");
        Sealer(LessSafeKey::new(key))
    }

    /// Nonce and ciphertext; `None` where the random generator failed.
    pub(super) fn seal(&self, place: &[&[u8]], plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut text = plain.to_vec();
        let aad = Aad::from(named(place));
        self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text).ok()?;
        Some([&nonce[..], &text].concat())
    }

    /// What was sealed for this place.
    pub(super) fn open(&self, place: &[&[u8]], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let aad = Aad::from(named(place));
        let plain = self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut text).ok()?;
        Some(plain.to_vec())
    }
}

/// Length-prefixed: no two places share a name.
fn named(place: &[&[u8]]) -> Vec<u8> {
    let mut name = Vec::new();
    for part in place {
        name.extend_from_slice(&(part.len() as u64).to_be_bytes());
        name.extend_from_slice(part);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::Sealer;

    #[test]
    fn a_sealed_text_opens_in_its_place_alone() {
        let (sealer, other) = (Sealer::new(&[1; 32]), Sealer::new(&[2; 32]));
        let sealed = sealer.seal(&[b"a", b"bc"], b"secret").unwrap();
        assert_eq!(sealer.open(&[b"a", b"bc"], &sealed).as_deref(), Some(&b"secret"[..]));
        assert_eq!(sealer.open(&[b"ab", b"c"], &sealed), None);
        assert_eq!(other.open(&[b"a", b"bc"], &sealed), None);
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(sealer.open(&[b"a", b"bc"], &changed), None, "byte {at}");
        }
        assert_eq!(sealer.open(&[], b"short"), None);
        assert_ne!(sealer.seal(&[], b"x"), sealer.seal(&[], b"x"));
    }
}
