//! Who sends the spans.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::spans::{number, text};

/// This process, with what OpenTelemetry's own variables say of it; those win.
pub(super) fn resource(stated: &[(String, String)]) -> Resource {
    let is_ours = |key: &str| key.starts_with("telemetry.sdk.");
    let stated: Vec<_> = stated.iter().filter(|(key, _)| !is_ours(key)).collect();
    let mut attributes: Vec<KeyValue> =
        known().into_iter().filter(|known| stated.iter().all(|(key, _)| *key != known.key)).collect();
    attributes.extend(stated.into_iter().map(|(key, value)| text(key, value)));
    Resource { attributes, ..Resource::default() }
}

fn known() -> Vec<KeyValue> {
    let version = env!("CARGO_PKG_VERSION");
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    vec![
        text("service.name", "shoal"),
        text("service.version", version),
        // Another one for each start.
        text("service.instance.id", uuid(rand::random())),
        text("host.name", host),
        number("process.pid", std::process::id().into()),
        text("telemetry.sdk.name", "shoal"),
        text("telemetry.sdk.language", "rust"),
        text("telemetry.sdk.version", version),
    ]
}

/// A random UUID: version 4 of RFC 9562.
fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let digits = format!("{bits:032x}");
    let [a, b, c, d, e] = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;

    use super::*;

    fn told(stated: &[(&str, &str)], key: &str) -> Vec<String> {
        let stated: Vec<_> = stated.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let attributes = resource(&stated).attributes.into_iter().filter(|attribute| attribute.key == key);
        let text = |attribute: KeyValue| match attribute.value.expect("a value").value.expect("a value") {
            Value::StringValue(text) => text,
            other => format!("{other:?}"),
        };
        attributes.map(text).collect()
    }

    #[test]
    fn what_is_stated_wins_once() {
        assert_eq!(told(&[], "service.name"), ["shoal"]);
        let stated = [("service.name", "fish"), ("k8s.pod.name", "shoal-0"), ("telemetry.sdk.name", "mine")];
        assert_eq!(told(&stated, "service.name"), ["fish"]);
        assert_eq!(told(&stated, "k8s.pod.name"), ["shoal-0"]);
        assert_eq!(told(&stated, "telemetry.sdk.name"), ["shoal"]);
        assert_eq!(told(&stated, "process.pid").len(), 1);
    }

    #[test]
    fn instances_are_told_apart() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_ne!(told(&[], "service.instance.id"), told(&[], "service.instance.id"));
    }
}
