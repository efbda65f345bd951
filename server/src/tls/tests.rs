use std::fs;
use std::path::Path;
use std::time::Duration;

use rcgen::date_time_ymd;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::testing::{Authority, Files};
use super::*;

fn files(of: &Files) -> TlsFiles {
    TlsFiles { prefix: "", cert: of.cert.clone(), key: of.key.clone(), client_ca: None }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("folder")
}

#[test]
fn what_is_wrong_with_a_file_is_named_with_its_key() {
    let folder = folder();
    let (authority, at) = (Authority::new(), folder.path());
    let (good, other) = (authority.write(at, "good", &["a"]), authority.write(at, "other", &["b"]));
    let write = |name: &str, text: &str| {
        fs::write(at.join(name), text).expect("write");
        at.join(name)
    };
    let empty = write("empty", "");
    let text = write("text", "no PEM at all");
    let garbage = write("garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let broken = write("broken", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
    let long = write("long", &"x".repeat(2 << 20));
    let missing = at.join("missing");
    let told = |cert: &Path, key: &Path, ca: Option<&Path>| {
        let client_ca = ca.map(|path| (path.to_owned(), ClientAuth::Required));
        let files = TlsFiles { prefix: "link_", cert: cert.to_owned(), key: key.to_owned(), client_ca };
        Tls::load(files).expect_err("an error").to_string()
    };
    for (cert, key, ca, key_told, problem) in [
        (&missing, &good.key, None, "link_tls_cert", "cannot be read"),
        (&empty, &good.key, None, "link_tls_cert", "has no certificate"),
        (&text, &good.key, None, "link_tls_cert", "has no certificate"),
        (&good.key, &good.key, None, "link_tls_cert", "has no certificate"),
        (&broken, &good.key, None, "link_tls_cert", "is not PEM"),
        (&garbage, &good.key, None, "link_tls_cert", "is no certificate"),
        (&long, &good.key, None, "link_tls_cert", "has more than"),
        (&good.cert, &missing, None, "link_tls_key", "cannot be read"),
        (&good.cert, &good.cert, None, "link_tls_key", "has no private key"),
        (&good.cert, &other.key, None, "link_tls_key", "does not belong to the certificate in"),
        (&good.cert, &good.key, Some(&missing), "link_tls_client_ca", "cannot be read"),
        (&good.cert, &good.key, Some(&good.key), "link_tls_client_ca", "has no certificate"),
        (&good.cert, &good.key, Some(&garbage), "link_tls_client_ca", "has a certificate that is none"),
    ] {
        let told = told(cert, key, ca.map(|path| path.as_path()));
        assert!(told.starts_with(&format!("`{key_told}`: /")) && told.contains(problem), "{told}");
    }
}

#[test]
fn a_certificate_that_is_not_valid_today_is_used_and_told() {
    let folder = folder();
    let authority = Authority::new();
    let of = |name: &str, from: i32, until: i32| {
        let files = authority.write_changed(folder.path(), name, &["a"], |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(until, 1, 1);
        });
        let tls = Tls::load(self::files(&files)).expect("a certificate");
        let validity = tls.current.borrow().validity;
        (validity.problem_now(), validity.not_after)
    };
    assert_eq!(of("old", 2001, 2002), (Some("has expired"), 1_009_843_200));
    assert_eq!(of("good", 2001, 2200), (None, 7_258_118_400));
    assert_eq!(of("new", 2199, 2200).0, Some("is not valid yet"));
}

/// A handshake with whoever takes connections, by a client that trusts this authority: what the server showed.
async fn shown(acceptor: &Acceptor, authority: &Authority) -> std::io::Result<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("an authority");
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let (near, far) = duplex(1 << 16);
    let accepting = tokio::spawn(acceptor.current().accept(far));
    let mut stream = connector.connect(ServerName::try_from("a").expect("a name"), near).await?;
    let leaf = stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec();
    let mut server = accepting.await.expect("task")?;
    stream.write_all(b"there").await?;
    stream.flush().await?;
    let mut heard = [0; 5];
    server.read_exact(&mut heard).await?;
    assert_eq!(&heard, b"there");
    Ok(leaf)
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_replaced_when_its_files_change_and_stays_while_they_are_broken() {
    let folder = folder();
    let authority = Authority::new();
    // As Kubernetes has it: what is named are links, through a link that is swapped.
    let version = |name: &str| {
        let at = folder.path().join(name);
        fs::create_dir(&at).expect("folder");
        authority.write(&at, "tls", &["a"]);
        at
    };
    let data = folder.path().join("data");
    let swap = |to: &Path| {
        let new = folder.path().join("new");
        std::os::unix::fs::symlink(to, &new).expect("link");
        fs::rename(new, &data).expect("swap");
    };
    let first = version("1");
    swap(&first);
    let used = Files { cert: data.join("tls.crt"), key: data.join("tls.key") };
    let tls = Tls::load(files(&used)).expect("a certificate");
    let metrics = Metrics::new();
    let following = tokio::spawn(tls.clone().follow(vec!["grpc", "http"], metrics.clone()));
    let acceptor = tls.acceptor(H2);
    let of_first = shown(&acceptor, &authority).await.expect("a handshake");

    // A key that belongs to another certificate.
    let broken = version("2");
    fs::copy(first.join("tls.key"), broken.join("tls.key")).expect("copy");
    swap(&broken);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(shown(&acceptor, &authority).await.expect("a handshake"), of_first);

    swap(&version("3"));
    while shown(&acceptor, &authority).await.expect("a handshake") == of_first {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let page = metrics.encode().expect("page");
    for port in ["grpc", "http"] {
        let name = format!("shoal_tls_certificate_expiry_timestamp_seconds{{port=\"{port}\"}} ");
        assert!(page.contains(&name), "{page}");
    }
    following.abort();
}

#[tokio::test]
async fn a_client_that_speaks_something_else_is_refused() {
    let folder = folder();
    let authority = Authority::new();
    let tls = Tls::load(files(&authority.write(folder.path(), "tls", &["a"]))).expect("a certificate");
    let (mut near, far) = duplex(1 << 16);
    let accepting = tokio::spawn(tls.acceptor(HTTP1).current().accept(far));
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("write");
    assert!(accepting.await.expect("task").is_err());
}

/// How the second of two handshakes goes of a client that has a certificate of its own, and remembers sessions.
async fn second_handshake(acceptor: &Acceptor, authority: &Authority, own: &Files) -> rustls::HandshakeKind {
    let read = |path: &Path| fs::read(path).expect("file");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("an authority");
    let own_key = PrivateKeyDer::from_pem_slice(&read(&own.key)).expect("a key");
    let own_cert = CertificateDer::from_pem_slice(&read(&own.cert)).expect("a certificate");
    let mut kind = None;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(vec![own_cert.clone()], own_key.clone_key())
            .expect("a certificate");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (near, far) = duplex(1 << 16);
            let accepting = tokio::spawn(acceptor.current().accept(far));
            let mut stream = connector.connect(ServerName::try_from("a").expect("a name"), near).await.expect("one");
            let mut server = accepting.await.expect("task").expect("a handshake");
            // What it may come back with arrives with the first bytes of an answer.
            server.write_all(b"there").await.expect("write");
            server.flush().await.expect("write");
            stream.read_exact(&mut [0; 5]).await.expect("read");
            seen.push(stream.get_ref().1.handshake_kind().expect("a handshake"));
        }
        assert_eq!(seen[0], rustls::HandshakeKind::Full);
        assert!(kind.is_none_or(|kind| kind == seen[1]), "of both versions the same");
        kind = Some(seen[1]);
    }
    kind.expect("two versions")
}

#[tokio::test]
async fn a_client_that_shows_a_certificate_shows_it_each_time() {
    let folder = folder();
    let authority = Authority::new();
    let ca = folder.path().join("ca.crt");
    fs::write(&ca, authority.pem()).expect("write");
    let (front, own) = (authority.write(folder.path(), "tls", &["a"]), authority.write(folder.path(), "own", &["b"]));
    for (asked, expected) in [
        (None, rustls::HandshakeKind::Resumed),
        (Some(ClientAuth::Required), rustls::HandshakeKind::Full),
        (Some(ClientAuth::Optional), rustls::HandshakeKind::Full),
    ] {
        let client_ca = asked.map(|auth| (ca.clone(), auth));
        let acceptor = Tls::load(TlsFiles { client_ca, ..files(&front) }).expect("a certificate").acceptor(H2);
        assert_eq!(second_handshake(&acceptor, &authority, &own).await, expected, "{asked:?}");
    }
}

#[test]
fn names_of_a_certificate_are_its_dns_names_and_uris() {
    let names =
        ["search.example", "spiffe://prod/search", "urn:shoal:search", "mailto:a@b.example", "127.0.0.1", "::1"];
    let certificate = Authority::new().certificate(&names);
    assert_eq!(Peer::of(certificate.der()).names, &names[..4]);
    // A URI without a scheme is none, and could be taken for a DNS name.
    let no_uri = Authority::new().certificate_changed(&[], |params| {
        let uri = |text: &str| rcgen::SanType::URI(text.try_into().expect("ASCII"));
        params.subject_alt_names = ["search.example", "", "1a:b", ":x"].map(uri).to_vec();
    });
    assert_eq!(Peer::of(no_uri.der()).names, [""; 0]);
    assert!(Peer::of(&CertificateDer::from(vec![0; 100])).names.is_empty());
}
