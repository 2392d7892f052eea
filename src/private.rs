//! Files that are for their owner alone. One decision: one that others can read is used, and said aloud: a gateway that does not
//! start again serves nobody, and whoever opened the file may have had to. Knows nothing of what is in them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The mode of a file that others than its owner can read. One that is not there, or cannot be looked at, is somebody else's error.
pub fn mode_for_others(path: &Path) -> Option<u32> {
    let mode = fs::metadata(path).map_or(0, |found| found.mode() & 0o777);
    (mode & 0o044 != 0).then_some(mode)
}

/// What to say of it.
pub fn told(path: &Path, mode: u32) -> String {
    format!("`{}` can be read by others (mode {mode:04o}); leave it to its owner (0600)", path.display())
}
