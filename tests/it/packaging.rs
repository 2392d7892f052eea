//! The training of a packaged build (`packaging/train`), with the program under test. It fails when anything is answered otherwise than
//! it has to be: a profile of refusals would make a program that is good at refusing.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

/// A short training: whether it was one, and what it said.
fn train(program: &Path) -> (bool, String) {
    let output = Command::new("timeout")
        .args(["--kill-after=20", "240"])
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packaging/train"))
        .arg(program)
        .arg("200")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The program behind a script that notes its process and changes its configuration first.
fn changed(folder: &Path, change: &str) -> PathBuf {
    let (script, started) = (folder.join("changed"), folder.join("started"));
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = run ]; then echo $$ >'{}'; sed -i '{change}' \"$3\"; fi\nexec '{PROGRAM}' \"$@\"\n",
        started.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[test]
fn training_is_answered_as_it_has_to_be() {
    let (is_trained, said) = train(Path::new(PROGRAM));
    assert!(is_trained && said.contains("each answered as it has to be"), "{said}");
}

#[test]
fn a_wrong_answer_fails_the_training_and_leaves_nothing_running() {
    let rows = [
        ("s/\"authenticated\"/\"public\"/", "h1 /app/1k, None: 8 of 401 had to come, not {200: 8}"),
        ("s/\"training\"/\"another\"/", "h1 /api/1k, es256: 16 of 200 had to come, not {401: 16}"),
        ("s/\\[upstream.secure.tls\\]/[nothing]/", "the gateway does not listen"),
    ];
    for (change, wrong) in rows {
        let folder = tempfile::tempdir().unwrap();
        let (is_trained, said) = train(&changed(folder.path(), change));
        assert!(!is_trained && said.contains(wrong), "{change}: {said}");
        let process = std::fs::read_to_string(folder.path().join("started")).unwrap();
        assert!(!Path::new("/proc").join(process.trim()).exists(), "{change}: {process} still runs");
    }
}

#[test]
fn there_is_no_training_without_a_program() {
    for program in ["/nowhere/portcullis", "/bin/false"] {
        let (is_trained, said) = train(Path::new(program));
        assert!(!is_trained && said.contains(program), "{program}: {said}");
    }
}
