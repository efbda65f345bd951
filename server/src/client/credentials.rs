//! What a client shows to a server, and by what it knows the server: files, named by flags.

use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Request, Status};

use super::address::{Address, ConnectError};

/// The token itself, for those who keep it in no file.
const TOKEN_VARIABLE: &str = "SHOAL_TOKEN";

/// A connection on which each call carries the token.
pub type Line = InterceptedService<Channel, Bearer>;

/// Who calls, and whom they trust.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Credentials {
    /// Authorities, in PEM, by one of which the certificate of a server at https:// must be signed [default: those that
    /// browsers trust]
    #[arg(long, value_name = "FILE", env = "SHOAL_CA")]
    pub ca: Option<PathBuf>,
    /// A certificate to show, in PEM, to a server that asks for one.
    #[arg(long, value_name = "FILE", env = "SHOAL_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The certificate's key, in PEM.
    #[arg(long, value_name = "FILE", env = "SHOAL_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
    /// File whose first line is a token to send with each call; without it, the variable SHOAL_TOKEN is the token.
    #[arg(long, value_name = "FILE", env = "SHOAL_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

/// Puts a token into the metadata of each call, if there is one.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(…)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Credentials {
    /// Opens one HTTP/2 connection.
    pub(super) async fn connect(&self, address: &Address) -> Result<Line, ConnectError> {
        let tls = if address.is_tls() { Some(self.tls()?) } else { None };
        let bearer = self.bearer()?;
        Ok(InterceptedService::new(address.connect(tls).await?, bearer))
    }

    fn tls(&self) -> Result<ClientTlsConfig, ConnectError> {
        let mut config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("ca", ca)?)),
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            config = config.identity(Identity::from_pem(read("cert", cert)?, read("key", key)?));
        }
        Ok(config)
    }

    fn bearer(&self) -> Result<Bearer, ConnectError> {
        let token = match &self.token_file {
            Some(path) => {
                let bytes = read("token-file", path)?;
                let text = String::from_utf8_lossy(&bytes);
                let first = text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
                let none = || ConnectError::file("token-file", path, "has no token");
                Some((first.ok_or_else(none)?, path.as_path()))
            }
            None => std::env::var(TOKEN_VARIABLE).ok().map(|token| (token, Path::new(TOKEN_VARIABLE))),
        };
        let Some((token, from)) = token.filter(|(token, _)| !token.is_empty()) else { return Ok(Bearer(None)) };
        let unfit = || ConnectError::file("token-file", from, "has a token that is not printable ASCII");
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unfit());
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| unfit())?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|error| ConnectError::file(flag, path, &format!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_first_line_of_its_file_and_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credentials = Credentials { token_file: Some(file.path().to_owned()), ..Credentials::default() };
        std::fs::write(file.path(), "\n secret \nother\n").unwrap();
        let mut bearer = credentials.bearer().unwrap();
        assert!(!format!("{bearer:?}").contains("secret"));
        let request = bearer.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer secret");
        for (text, told) in [("", "has no token"), ("gr\u{f6}\u{df}e", "not printable")] {
            std::fs::write(file.path(), text).unwrap();
            let error = credentials.bearer().unwrap_err().to_string();
            assert!(error.starts_with("--token-file: ") && error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named_with_its_flag() {
        let credentials = Credentials { ca: Some("/nowhere".into()), ..Credentials::default() };
        let error = credentials.tls().unwrap_err().to_string();
        assert!(error.starts_with("--ca: /nowhere cannot be read: "), "{error}");
    }
}
