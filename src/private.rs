//! Files that are for their owner alone. One decision: one that others can read is used, and said aloud: a gateway that does not
//! start again serves nobody, and whoever opened the file may have had to. Knows nothing of what is in them.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Where systemd puts what a service is handed by `LoadCredential=`: in a folder for that service alone.
const HANDED_OVER: &str = "/run/credentials";

/// The mode of a file that others than its owner can read. One that is not there, or cannot be looked at, is somebody else's error.
pub fn mode_for_others(path: &Path) -> Option<u32> {
    if is_handed_over(path) {
        return None;
    }
    let mode = fs::metadata(path).map_or(0, |found| found.mode() & 0o777);
    (mode & 0o044 != 0).then_some(mode)
}

/// There rights are on a list, of which the mode shows the widest as the group's.
fn is_handed_over(path: &Path) -> bool {
    path.starts_with(HANDED_OVER)
}

/// What to say of it.
pub fn told(path: &Path, mode: u32) -> String {
    format!("`{}` can be read by others (mode {mode:04o}); leave it to its owner (0600)", path.display())
}

/// Make a file that is there whole or not at all: what a full disk or a power cut leaves of one would keep the next start from making it.
///
/// # Errors
/// What the system said.
pub fn make(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut half = path.as_os_str().to_owned();
    half.push(".new");
    let half = Path::new(&half);
    // What a start left that broke off. Never written to: whoever owns the folder could have put a link there.
    let _ = fs::remove_file(half);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(half)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(half, path));
    written.inspect_err(|_| drop(fs::remove_file(half)))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{HANDED_OVER, is_handed_over, make, mode_for_others};

    #[test]
    fn a_file_is_made_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (path, half) = (folder.path().join("token"), folder.path().join("token.new"));
        fs::write(&half, "what a start left that broke off").unwrap();
        make(&path, b"whole", 0o600).unwrap();
        assert_eq!((fs::read(&path).unwrap(), half.exists()), (b"whole".to_vec(), false));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        // Nothing can be written there.
        fs::create_dir(&half).unwrap();
        assert!(make(&path, b"whole", 0o600).is_err() && !path.exists());
    }

    #[test]
    fn what_systemd_hands_over_is_for_one_service_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "").unwrap();
        for (mode, told) in [(0o400, None), (0o440, Some(0o440)), (0o604, Some(0o604))] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(mode_for_others(&path), told);
        }
        assert!(is_handed_over(&Path::new(HANDED_OVER).join("portcullis.service/secret")));
        assert!(!is_handed_over(&path) && !is_handed_over(Path::new("/run/credentials-of-mine/secret")));
    }
}
