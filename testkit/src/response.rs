//! Answers, whatever protocol they came by, and what a whoami origin says in them.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::Value;

/// Names and values in order of arrival.
pub type Fields = Vec<(String, String)>;

/// An HTTP response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in order of arrival, names as they came (HTTP/2: lower case, repeats together).
    pub headers: Fields,
    /// Content, without framing.
    pub body: Vec<u8>,
    /// Fields behind the content.
    pub trailers: Fields,
    /// Statuses of the interim responses before this one, such as 100.
    pub interim: Vec<u16>,
}

/// The values of all fields of that name.
pub fn values<'a>(fields: &'a Fields, name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

impl Response {
    /// The values of a header joined with `, `; `None` when it is absent.
    pub fn header(&self, name: &str) -> Option<String> {
        let values = values(&self.headers, name);
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The values of a trailer joined with `, `; `None` when it is absent.
    pub fn trailer(&self, name: &str) -> Option<String> {
        let values = values(&self.trailers, name);
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The content as text, wrong UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What a whoami origin saw.
    ///
    /// # Errors
    /// When the content is not its report; the text shows status and content.
    pub fn seen(&self) -> Result<Seen> {
        Seen::parse(&self.body).with_context(|| format!("answer has status {}", self.status))
    }
}

/// The report of a whoami origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen(pub Value);

impl Seen {
    /// Parses the report.
    ///
    /// # Errors
    /// When the bytes are not JSON; the text shows them.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let json = serde_json::from_slice(bytes);
        json.map(Self).with_context(|| format!("not a whoami report: {:?}", String::from_utf8_lossy(bytes)))
    }

    /// A member as text; empty when absent or null.
    pub fn text(&self, member: &str) -> &str {
        self.0[member].as_str().unwrap_or_default()
    }

    /// Which instance answered.
    pub fn name(&self) -> &str {
        self.text("name")
    }

    /// Whom the origin's socket was connected to.
    ///
    /// # Errors
    /// When the report has no such address.
    pub fn peer(&self) -> Result<SocketAddr> {
        self.text("peer").parse().with_context(|| format!("peer in {}", self.0))
    }

    /// The source address in the PROXY header the origin received, if it received one.
    pub fn proxy_source(&self) -> Option<SocketAddr> {
        self.0["proxy"]["source"].as_str()?.parse().ok()
    }

    /// Request headers in order.
    pub fn headers(&self) -> Fields {
        pairs(&self.0["headers"])
    }

    /// Request trailers in order.
    pub fn trailers(&self) -> Fields {
        pairs(&self.0["trailers"])
    }

    /// The values of a request header joined with `, `; `None` when it is absent.
    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.headers();
        let values = values(&headers, name);
        (!values.is_empty()).then(|| values.join(", "))
    }
}

fn pairs(value: &Value) -> Fields {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    value.as_array().into_iter().flatten().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}
