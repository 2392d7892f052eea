//! What lies on the disk is for its owner alone, and what others can read is said.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::process::start_text;
use crate::support::shipped;

const READABLE: &str = "can be read by others (mode 0644)";

#[test]
fn what_the_gateway_makes_is_its_own_and_what_others_can_read_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let files =
        [data.join("sessions.redb"), data.join("keys"), folder.path().join("secret"), folder.path().join("users.toml")];
    // The folder was there, and is open to everybody.
    fs::create_dir(&data).unwrap();
    let made = start_text(folder.path(), &shipped("embedded:data"));
    assert!(!made.said.contains("can be read by others"), "{}", made.said);
    drop(made);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(&files[0]), mode(&files[1]), mode(&files[3])], [0o600; 3]);
    fs::write(&files[2], "thirty-two bytes or more of a secret\n").unwrap();
    let chmod =
        |mode| files.each_ref().map(|file| fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap());
    chmod(0o644);
    let own = start_text(folder.path(), &shipped("embedded:data"));
    let secret = shipped("embedded:data").replace("[session]\n", "[session]\nsecret = { file = \"secret\" }\n");
    let said = own.said.clone();
    drop(own);
    let configured = start_text(folder.path(), &secret).said.clone();
    let [store, keys, secret_file, users] = &files;
    for (said, file) in
        [(&said, store), (&said, keys), (&said, users), (&configured, store), (&configured, secret_file)]
    {
        assert!(said.contains(&format!("`{}` {READABLE}", file.display())), "{}: {said}", file.display());
    }
    chmod(0o600);
    let said = start_text(folder.path(), &secret).said.clone();
    assert!(!said.contains("can be read by others"), "{said}");
}
