//! What a user may say of traces, and what OpenTelemetry's own variables say where they do not.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::{HeaderName, HeaderValue, Uri};
use serde::Deserialize;

use super::sampling::{KeepRule, Sample};
use crate::config::ConfigError;

/// Where spans are sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum OtlpEndpoint {
    /// To this collector, over gRPC.
    At(String),
    /// Nowhere.
    Off,
}

/// The settings, as given.
#[derive(Clone, Debug, Default)]
pub struct TraceSettings {
    pub endpoint: Option<OtlpEndpoint>,
    pub headers_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub sample: Option<Sample>,
    pub keep: Option<KeepRule>,
}

/// All that sending needs.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// Of the collector.
    pub endpoint: String,
    /// Sent along, for the collector to know who sends.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The certificates, in PEM, of whoever vouches for the collector; where unset, those of the web do.
    pub ca: Option<Vec<u8>>,
    pub sample: Sample,
    pub keep: KeepRule,
    /// What is stated of this process.
    pub resource: Vec<(String, String)>,
}

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const DISABLED: &str = "OTEL_SDK_DISABLED";
/// Bytes of a file of headers or certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let is_url = text.parse::<Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        match is_url {
            true => Ok(Self::At(text.to_owned())),
            false => Err(format!("`{text}` is neither a URL such as http://127.0.0.1:4317 nor `off`")),
        }
    }
}

impl TryFrom<String> for OtlpEndpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Puts settings and OpenTelemetry's variables together. Nothing if no spans are sent.
///
/// # Errors
/// What is wrong, by key.
pub fn options(
    settings: TraceSettings,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<TraceOptions>, ConfigError> {
    // One that is set to nothing is not set, as OpenTelemetry has it.
    let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, variable(name)?)));
    let endpoint = match settings.endpoint {
        Some(OtlpEndpoint::Off) => return Ok(None),
        Some(OtlpEndpoint::At(endpoint)) => endpoint,
        None if variable(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true")) => return Ok(None),
        None => {
            let Some((name, url)) = first(ENDPOINTS) else { return Ok(None) };
            if let Some((name, protocol)) = first(PROTOCOLS).filter(|(_, protocol)| protocol != "grpc") {
                let problem = format!(
                    "`{protocol}` is not spoken here, only `grpc`: name the collector's port for that with \
                     `otlp_endpoint`, or say `otlp_endpoint = \"off\"`"
                );
                return Err(wrong(name, problem));
            }
            match url.parse().map_err(|problem| wrong(name, problem))? {
                OtlpEndpoint::At(endpoint) => endpoint,
                OtlpEndpoint::Off => return Ok(None),
            }
        }
    };
    let headers = match &settings.headers_file {
        Some(file) => headers_of(&read("otlp_headers_file", file)?)?,
        None => first(HEADERS).map(|(name, list)| listed_headers(name, &list)).transpose()?.unwrap_or_default(),
    };
    let mut resource = variable(RESOURCE).map(|list| pairs(RESOURCE, &list)).transpose()?.unwrap_or_default();
    if let Some(name) = variable(SERVICE_NAME) {
        resource.retain(|(key, _)| key != "service.name");
        resource.push(("service.name".to_owned(), name));
    }
    let ca = settings.ca_file.as_deref().map(|file| read("otlp_ca_file", file)).transpose()?;
    Ok(Some(TraceOptions {
        endpoint,
        headers,
        ca: ca.map(String::into_bytes),
        sample: settings.sample.unwrap_or(Sample::DEFAULT),
        keep: settings.keep.unwrap_or_default(),
        resource,
    }))
}

fn wrong(key: &str, problem: String) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), problem }
}

fn read(key: &str, file: &Path) -> Result<String, ConfigError> {
    let at = file.display();
    match fs::metadata(file) {
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            return Err(wrong(key, format!("{at} has more than {FILE_BYTES_MAX} bytes")));
        }
        _ => {}
    }
    fs::read_to_string(file).map_err(|error| wrong(key, format!("{at}: {error}")))
}

/// `name: value` on each line. What is wrong with one is told without its value, which may be a secret.
fn headers_of(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
    let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let header = |(number, line): (usize, &str)| {
        let (name, value) = line.split_once(':').unwrap_or_default();
        let is_wrong = || wrong("otlp_headers_file", format!("line {number} is not `name: value` of a gRPC header"));
        header(name.trim(), value.trim()).ok_or_else(is_wrong)
    };
    lines.map(header).collect()
}

fn listed_headers(variable: &str, list: &str) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
    let named = |(name, value): (String, String)| {
        let is_wrong = || wrong(variable, format!("`{name}` or its value is not a gRPC header"));
        header(&name, &value).ok_or_else(is_wrong)
    };
    pairs(variable, list)?.into_iter().map(named).collect()
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = name.to_ascii_lowercase();
    // Those carry bytes in another form, and those are the connection's own.
    if name.ends_with("-bin") || name.starts_with("grpc-") || matches!(&*name, "te" | "content-type" | "host") {
        return None;
    }
    let mut value = HeaderValue::from_str(value).ok().filter(|value| value.to_str().is_ok())?;
    // Is not printed by accident.
    value.set_sensitive(true);
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
}

/// `key=value,key=value`, with `%` before two digits for what cannot stand there.
fn pairs(variable: &str, list: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let pair = |(number, pair): (usize, &str)| {
        let (key, value) = pair.split_once('=').unwrap_or_default();
        let key = key.trim();
        let value = unescaped(value.trim()).filter(|_| !key.is_empty());
        let is_wrong = || wrong(variable, format!("entry {number} is not `key=value`"));
        Ok((key.to_owned(), value.ok_or_else(is_wrong)?))
    };
    (1..).zip(list.split(',')).filter(|(_, pair)| !pair.trim().is_empty()).map(pair).collect()
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.contains('+'))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(settings: TraceSettings, variables: &[(&str, &str)]) -> Result<Option<TraceOptions>, String> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        options(settings, variable).map_err(|error| error.to_string())
    }

    fn at(endpoint: &str) -> TraceSettings {
        TraceSettings { endpoint: Some(endpoint.parse().expect("an endpoint")), ..TraceSettings::default() }
    }

    #[test]
    fn nothing_is_sent_unless_somebody_says_where() {
        assert!(found(TraceSettings::default(), &[]).expect("fine").is_none());
        assert!(found(TraceSettings::default(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).expect("fine").is_none());
    }

    #[test]
    fn the_settings_win_over_the_variables_of_opentelemetry() {
        let both =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:2")];
        let endpoint =
            |settings, variables: &[_]| found(settings, variables).expect("fine").map(|options| options.endpoint);
        assert_eq!(endpoint(at("http://c:3"), &both).as_deref(), Some("http://c:3"));
        assert_eq!(endpoint(TraceSettings::default(), &both).as_deref(), Some("http://b:2"));
        assert_eq!(endpoint(TraceSettings::default(), &both[..1]).as_deref(), Some("http://a:1"));
        assert_eq!(endpoint(at("off"), &both), None);
        let disabled = [both[0], ("OTEL_SDK_DISABLED", "TRUE")];
        assert_eq!(endpoint(TraceSettings::default(), &disabled), None);
        assert_eq!(endpoint(at("http://c:3"), &disabled).as_deref(), Some("http://c:3"));
    }

    #[test]
    fn refuses_what_it_cannot_reach_or_speak() {
        for wrong in ["", "collector:4317", "ftp://a:1", "http://", "http://a b"] {
            assert!(wrong.parse::<OtlpEndpoint>().is_err(), "{wrong}");
        }
        let spoken =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
        let error = found(TraceSettings::default(), &spoken).expect_err("HTTP");
        assert!(error.contains("OTEL_EXPORTER_OTLP_PROTOCOL") && error.contains("otlp_endpoint"), "{error}");
        assert!(found(at("http://c:3"), &spoken).is_ok(), "what a user says of this server is not about others");
        let error = found(TraceSettings::default(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", "a:1")]).expect_err("no URL");
        assert!(error.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{error}");
    }

    #[test]
    fn reads_what_is_stated_of_the_process() {
        let variables =
            [("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=shoal-0, service.name=a,x=1%2C2"), ("OTEL_SERVICE_NAME", "b")];
        let options = found(at("http://c:3"), &variables).expect("fine").expect("on");
        let expected = [("k8s.pod.name", "shoal-0"), ("x", "1,2"), ("service.name", "b")];
        assert_eq!(options.resource, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        for wrong in ["a", "=b", "a=%2", "a=%zz", "a=%ff"] {
            let error = found(at("http://c:3"), &[("OTEL_RESOURCE_ATTRIBUTES", wrong)]).expect_err(wrong);
            assert!(error.contains("OTEL_RESOURCE_ATTRIBUTES"), "{error}");
        }
    }

    #[test]
    fn headers_come_from_a_file_and_are_never_told() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("headers");
        let with = |text: &str| {
            fs::write(&file, text).expect("file");
            let settings = TraceSettings { headers_file: Some(file.clone()), ..at("http://c:3") };
            found(settings, &[("OTEL_EXPORTER_OTLP_HEADERS", "x=y")])
        };
        let options = with("# for the collector\n\nAuthorization: Bearer secret\n").expect("fine").expect("on");
        assert_eq!(options.headers.len(), 1, "the file is all there is");
        assert_eq!(options.headers[0].0, "authorization");
        assert_eq!(options.headers[0].1, "Bearer secret");
        assert!(!format!("{options:?}").contains("secret"));
        for wrong in ["secret", "a b: secret", "x-bin: secret", "grpc-timeout: secret", "a: secret\u{1}", ": secret"] {
            let error = with(&format!("a: b\n{wrong}")).expect_err(wrong);
            assert!(error.contains("otlp_headers_file") && error.contains("line 2"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let missing = TraceSettings { headers_file: Some(folder.path().join("none")), ..at("http://c:3") };
        assert!(found(missing, &[]).expect_err("no file").contains("otlp_headers_file"));
        let listed = [("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b,x=y")];
        let headers = found(at("http://c:3"), &listed).expect("fine").expect("on").headers;
        assert_eq!((headers.len(), headers[0].1.to_str().expect("text")), (2, "a b"));
    }
}
