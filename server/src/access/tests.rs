use std::collections::BTreeMap;

use http::HeaderValue;
use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::table::{GRPC, HTTP};
use super::*;

const TOKEN: &str = "0123456789abcdef0123";

fn identity(name: &str, rights: &[Right]) -> Arc<Identity> {
    let rights = rights.iter().copied().collect();
    Arc::new(Identity { name: name.to_owned(), tenant: None, rights, models: None })
}

fn entry(name: &str, proof: Proof) -> Entry {
    Entry { proof, identity: identity(name, &[Right::Infer]) }
}

fn of_token(name: &str, token: &str) -> Entry {
    entry(name, Proof::TokenSha256(Digest::of(token.as_bytes())))
}

fn access() -> Access {
    let spiffe = entry("mesh", Proof::Certificate("spiffe://prod/search".into()));
    Access::new(vec![of_token("search", TOKEN), spiffe]).expect("entries")
}

fn headers(values: &[&str]) -> HeaderMap {
    let value = |text: &&str| (header::AUTHORIZATION, HeaderValue::from_str(text).expect("a value"));
    values.iter().map(value).collect()
}

fn peer(names: &[&str]) -> Peer {
    Peer { names: names.iter().map(|name| (*name).to_owned()).collect(), fingerprint: [0; 32] }
}

const INFER: Option<Need> = Some(Need::Right(Right::Infer));

fn name(admitted: Result<Scope, Denied>) -> Result<Option<String>, Denied> {
    admitted.map(|scope| scope.0.map(|identity| identity.name.clone()))
}

#[test]
fn without_entries_everybody_may_call_everything() {
    let open = Access::new(Vec::new()).expect("no entries");
    assert!(!open.is_guarded());
    for need in [None, INFER, Some(Need::Identity)] {
        assert_eq!(name(open.admit(need, &headers(&["nonsense"]), None)), Ok(None));
    }
}

#[test]
fn a_caller_is_known_by_its_token_whatever_the_case_of_bearer() {
    for value in [format!("Bearer {TOKEN}"), format!("bearer {TOKEN}"), format!("BEARER  {TOKEN} ")] {
        assert_eq!(name(access().admit(INFER, &headers(&[&value]), None)), Ok(Some("search".into())), "{value}");
    }
}

#[test]
fn what_is_no_good_token_makes_nobody_known() {
    let good = format!("Bearer {TOKEN}");
    let longer = format!("Bearer {TOKEN}4");
    let basic = format!("Basic {TOKEN}");
    let shorter = format!("Bearer {}", &TOKEN[1..]);
    for values in [
        &[][..],
        &[""],
        &["Bearer"],
        &["Bearer "],
        &[TOKEN],
        &[&longer],
        &[&shorter],
        &[&basic],
        &[&good, &good],
        &[&good, &longer],
    ] {
        let denied = access().admit(INFER, &headers(values), None).expect_err("denied");
        assert!(matches!(denied, Denied::Unknown(_)), "{values:?}: {denied}");
        assert!(!denied.to_string().contains(TOKEN), "{denied}");
    }
}

#[test]
fn a_caller_is_known_by_a_name_of_its_certificate_to_the_letter() {
    let by = |names: &[&str]| name(access().admit(INFER, &HeaderMap::new(), Some(&peer(names))));
    assert_eq!(by(&["other.example", "spiffe://prod/search"]), Ok(Some("mesh".into())));
    for wrong in ["spiffe://prod/search2", "spiffe://prod/searc", "SPIFFE://prod/search", "prod/search", "*"] {
        assert!(matches!(by(&[wrong]), Err(Denied::Unknown(_))), "{wrong}");
    }
    assert!(matches!(by(&[]), Err(Denied::Unknown(_))));
}

#[test]
fn a_wrong_token_is_not_made_good_by_a_certificate_and_a_good_one_comes_before_it() {
    let mesh = peer(&["spiffe://prod/search"]);
    let wrong = access().admit(INFER, &headers(&["Bearer 0123456789abcdef9999"]), Some(&mesh));
    assert_eq!(wrong.expect_err("denied"), Denied::Unknown("the token is not known here"));
    let token = format!("Bearer {TOKEN}");
    assert_eq!(name(access().admit(INFER, &headers(&[&token]), Some(&mesh))), Ok(Some("search".into())));
}

#[test]
fn a_right_that_is_missing_is_named_and_a_method_nobody_knows_is_denied() {
    let token = headers(&[&format!("Bearer {TOKEN}")]);
    let denied = access().admit(Some(Need::Right(Right::Control)), &token, None).expect_err("denied");
    assert_eq!(denied.to_string(), "`search` may not call this: it needs the right `control`");
    assert!(matches!(access().admit(None, &token, None), Err(Denied::Forbidden { .. })));
    assert!(matches!(access().admit(None, &HeaderMap::new(), None), Err(Denied::Unknown(_))));
    assert!(access().admit(Some(Need::Identity), &token, None).is_ok());
    assert!(access().admit(Some(Need::Nothing), &HeaderMap::new(), None).is_ok());
}

#[test]
fn a_token_has_one_owner() {
    let error = Access::new(vec![of_token("a", TOKEN), of_token("b", TOKEN)]).expect_err("twice");
    assert_eq!(error.to_string(), "`access.b.token_sha256`: is a token of `a` already");
}

#[test]
fn a_file_of_tokens_holds_one_or_several_that_cannot_be_guessed() {
    let file = tempfile::NamedTempFile::new().expect("file");
    let read = |text: &[u8]| {
        std::fs::write(file.path(), text).expect("write");
        read_tokens(file.path())
    };
    let other = "fedcba9876543210fedc";
    let both = [Digest::of(TOKEN.as_bytes()), Digest::of(other.as_bytes())];
    assert_eq!(read(TOKEN.as_bytes()).as_deref(), Ok(&both[..1]));
    assert_eq!(read(format!("\n {TOKEN} \r\n\n{other}\n").as_bytes()).as_deref(), Ok(&both[..]));
    let path = file.path().display().to_string();
    for (text, told) in [
        (&b""[..], "has no token"),
        (b" \n\n", "has no token"),
        (b"short", "fewer than 16 bytes"),
        (b"0123456789abcdef 0123", "not printable"),
        (b"0123456789abcdef\xff", "not printable"),
    ] {
        let problem = read(text).expect_err("a problem");
        assert!(problem.starts_with(&path) && problem.contains(told), "{problem}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_replaced_without_a_moment_in_which_none_is_good() {
    let file = tempfile::NamedTempFile::new().expect("file");
    let (old, new) = ("old-0123456789abcdef", "new-0123456789abcdef");
    std::fs::write(file.path(), old).expect("write");
    let access = Access::new(vec![entry("a", Proof::TokenFile(file.path().into()))]).expect("a token");
    let admits = |token: &str| access.admit(INFER, &headers(&[&format!("Bearer {token}")]), None).is_ok();
    let following = tokio::spawn(access.clone().follow());
    let followed = async |good: &str| {
        while !admits(good) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    assert!(admits(old) && !admits(new));
    std::fs::write(file.path(), format!("{old}\n{new}")).expect("write");
    followed(new).await;
    assert!(admits(old));
    // What cannot be used changes nothing.
    std::fs::write(file.path(), "").expect("write");
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    assert!(admits(old) && admits(new));
    std::fs::write(file.path(), new).expect("write");
    while admits(old) {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(admits(new));
    following.abort();
}

/// Entries called `a`, `b` and so on, each with a file of tokens.
struct InFiles {
    folder: tempfile::TempDir,
    access: Access,
}

impl InFiles {
    fn new(tokens: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let entries = tokens.iter().zip(["a", "b", "c"]).map(|(tokens, name)| {
            let path = folder.path().join(name);
            std::fs::write(&path, tokens).expect("write");
            entry(name, Proof::TokenFile(path))
        });
        let access = Access::new(entries.collect()).expect("tokens");
        Self { folder, access }
    }

    fn write(&self, name: &str, tokens: &str) {
        std::fs::write(self.folder.path().join(name), tokens).expect("write");
    }

    fn owner(&self, token: &str) -> Option<String> {
        name(self.access.admit(INFER, &headers(&[&format!("Bearer {token}")]), None)).ok().flatten()
    }

    async fn becomes(&self, token: &str, owner: Option<&str>) {
        for _ in 0..100 {
            if self.owner(token).as_deref() == owner {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("{token} is still of {:?}", self.owner(token));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_broken_keeps_its_own_tokens_and_no_others() {
    let (of_a, of_b, new) = ("of-a-0123456789abcdef", "of-b-0123456789abcdef", "new-0123456789abcdef");
    let files = InFiles::new(&[of_a, of_b]);
    let following = tokio::spawn(files.access.clone().follow());
    files.write("a", "short");
    files.write("b", new);
    files.becomes(new, Some("b")).await;
    assert_eq!((files.owner(of_a).as_deref(), files.owner(of_b)), (Some("a"), None));
    // It is whole again, and what it held before goes.
    files.write("a", of_b);
    files.becomes(of_b, Some("a")).await;
    assert_eq!(files.owner(of_a), None);
    following.abort();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_comes_up_in_a_second_file_stays_whose_it_was() {
    let (of_a, of_b, new) = ("of-a-0123456789abcdef", "of-b-0123456789abcdef", "new-0123456789abcdef");
    let files = InFiles::new(&[of_a, of_b]);
    let following = tokio::spawn(files.access.clone().follow());
    files.write("a", &format!("{of_b}\n{new}"));
    files.becomes(new, Some("a")).await;
    assert_eq!((files.owner(of_a), files.owner(of_b).as_deref()), (None, Some("b")));
    // Its owner lets go of it.
    files.write("b", of_a);
    files.becomes(of_b, Some("a")).await;
    assert_eq!(files.owner(of_a).as_deref(), Some("b"));
    following.abort();
}

/// Every method that a descriptor set has, by its path.
fn methods(sets: &[&[u8]]) -> Vec<String> {
    let sets = sets.iter().map(|set| FileDescriptorSet::decode(*set).expect("descriptors"));
    let mut paths: Vec<String> = sets
        .flat_map(|set| set.file)
        .flat_map(|file| {
            let package = file.package().to_owned();
            let of = move |service: prost_types::ServiceDescriptorProto| {
                let service_path = format!("/{package}.{}", service.name());
                service.method.into_iter().map(move |method| format!("{service_path}/{}", method.name()))
            };
            file.service.into_iter().flat_map(of).collect::<Vec<_>>()
        })
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

#[test]
fn every_method_of_every_service_is_in_the_table_and_nothing_else_is() {
    let mut described = methods(&[
        shoal_proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ]);
    // On a port of its own, with guards of its own; on those of clients it is not served.
    described.retain(|path| !path.starts_with("/shoal.link.v1.WorkerLink/"));
    let listed: Vec<&str> = GRPC.iter().map(|(path, _)| *path).collect();
    assert_eq!(listed, described);
    assert_eq!(of_grpc("/shoal.link.v1.WorkerLink/Control"), None);
    assert_eq!(of_grpc("/shoal.v1.Inference/Embed/"), None);
    assert_eq!(of_grpc("/shoal.v1.Inference/Embed"), Some(Need::Right(Right::Infer)));
}

#[test]
fn the_page_has_the_same_table() {
    let page = include_str!("../../docs/security.md");
    let needs = |need: Need| match need {
        Need::Nothing => "nothing".to_owned(),
        Need::Identity => "an identity".to_owned(),
        Need::Right(right) => format!("`{}`", right.name()),
    };
    let grpc = GRPC.iter().map(|(path, need)| (path.trim_start_matches('/').to_owned(), needs(*need)));
    let http = HTTP.iter().map(|(method, path, need)| (format!("{method} {path}"), needs(*need)));
    let expected: BTreeMap<String, String> = grpc.chain(http).collect();
    let row = |line: &str| {
        let (method, need) = line.strip_prefix("| `")?.split_once("` | ")?;
        let is_method = method.contains('/');
        is_method.then(|| (method.to_owned(), need.trim_end_matches(" |").to_owned()))
    };
    let told: BTreeMap<String, String> = page.lines().filter_map(row).collect();
    assert_eq!(told, expected);
}

#[test]
fn a_scope_has_its_models_and_its_tenant() {
    let everything = Scope::default();
    assert!(everything.sees("a") && everything.tenant().is_none());
    let some = Identity {
        name: "n".into(),
        tenant: Some("t".into()),
        rights: BTreeSet::new(),
        models: Some(["a".to_owned()].into()),
    };
    let scope = Scope::of(some);
    assert!(scope.sees("a") && !scope.sees("b") && !scope.sees(""));
    assert_eq!(scope.tenant().map(|tenant| &**tenant), Some("t"));
}
