//! Files that are for their owner alone. One decision: one that others can read is used, and said aloud: a gateway that does not
//! start again serves nobody, and whoever opened the file may have had to. Knows nothing of what is in them.

use std::fs;
use std::os::unix::fs::MetadataExt;
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

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{HANDED_OVER, is_handed_over, mode_for_others};

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
