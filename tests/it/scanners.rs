//! What two TLS scanners say of the shipped configuration: nothing above "info". The certificate is one of a test's own
//! authority, which the scanners are told to trust; everything else is as shipped.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use serde_json::Value;

use crate::servers::Authority;
use crate::support::{Running, run_text, shipped};
use crate::tools::python;

/// What a public authority would issue: a year at most, and where it says what it revoked.
fn certified() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.not_before = SystemTime::now().into();
    params.not_after = (SystemTime::now() + Duration::from_secs(89 * 86_400)).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec!["http://localhost/revoked".to_owned()] }];
    let (certificate, key) = authority.sign(&params);
    std::fs::create_dir(folder.path().join("certs")).unwrap();
    std::fs::write(folder.path().join("certs/gateway.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.path().join("certs/gateway.key"), key.serialize_pem()).unwrap();
    run_text(folder, &shipped("memory"))
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Mozilla's intermediate profile, and every attack that it tries. attacks: lines 113 and 114
#[test]
fn sslyze_finds_nothing() {
    let running = certified();
    let report = running.folder.path().join("sslyze.json");
    let said = python("sslyze")
        .args(["--mozilla_config", "intermediate", "--early_data", "--certinfo_ca_file"])
        .arg(running.folder.path().join("ca.pem"))
        .arg("--json_out")
        .arg(&report)
        .arg(format!("localhost:{}", running.port()))
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&said.stdout);
    assert!(
        said.status.success() && out.contains("OK - Compliant"),
        "{out}\n{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let result = &read(&report)["server_scan_results"][0];
    assert_eq!(result["scan_status"], "COMPLETED", "{out}");
    let of = |name: &str| result["scan_result"][name]["result"].clone();
    assert_eq!(of("heartbleed")["is_vulnerable_to_heartbleed"], false);
    assert_eq!(of("robot")["robot_result"], "NOT_VULNERABLE_RSA_NOT_SUPPORTED");
    assert_eq!(of("tls_1_3_early_data")["supports_early_data"], false);
    assert_eq!(of("tls_fallback_scsv")["supports_fallback_scsv"], true);
    for old in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"] {
        assert_eq!(of(&format!("{old}_cipher_suites"))["accepted_cipher_suites"], serde_json::json!([]), "{old}");
    }
}

/// Preferences, tickets, the certificate; `PORTCULLIS_SCAN=full` asks for everything, which takes minutes.
#[test]
fn testssl_finds_nothing() {
    let running = certified();
    let report = running.folder.path().join("testssl.json");
    let mut command = Command::new("testssl");
    command.args(["--quiet", "--color", "0", "--warnings", "off", "--ip", "one", "--add-ca"]);
    command.arg(running.folder.path().join("ca.pem")).arg("--jsonfile").arg(&report);
    if std::env::var_os("PORTCULLIS_SCAN").is_none() {
        command.args(["--fast", "-P", "-S"]);
    }
    let said = command.arg(format!("https://localhost:{}/", running.port())).output().unwrap();
    let findings = read(&report);
    let findings: Vec<&Value> = findings.as_array().unwrap().iter().collect();
    assert!(findings.len() > 20, "{}", String::from_utf8_lossy(&said.stdout));
    let above = findings.into_iter().filter(|finding| {
        let is_of_this_place = match finding["id"].as_str().unwrap() {
            // No authority is named in the DNS for localhost.
            "DNS_CAArecord" => true,
            // Its client leaves at the end of its input, now and then before a ticket came that could be used again.
            "sessionresumption_ticket" => finding["finding"] == "check failed because of connect problem",
            // What the local openssl cannot try, sslyze tries.
            _ => finding["severity"] == "WARN" && finding["finding"].as_str().unwrap().contains("local OpenSSL"),
        };
        !is_of_this_place && !matches!(finding["severity"].as_str().unwrap(), "OK" | "INFO" | "DEBUG")
    });
    let above: Vec<String> = above.map(Value::to_string).collect();
    assert!(above.is_empty(), "{}", above.join("\n"));
}
