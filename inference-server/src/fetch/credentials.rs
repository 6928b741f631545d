//! What opens a source: values by the names that the stores' own tools use, from the environment.

use std::{collections::BTreeMap, fmt};

/// Put before the names where they come from a Secret, so that no key of it can be another variable of the process.
pub const PREFIX: &str = "FLOTILLA_SOURCE_";

/// Every name that is looked for; README.md says what each is.
pub const NAMES: [&str; 16] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_ENDPOINT_URL",
    "HF_TOKEN",
    "HF_ENDPOINT",
    "HTTPS_TOKEN",
    "HTTPS_USERNAME",
    "HTTPS_PASSWORD",
    "CA_CERTIFICATES",
];

/// The values that are there. Printed, it shows names alone.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Credentials(BTreeMap<&'static str, String>);

impl Credentials {
    /// Looks every name up, with the prefix and without; empty values are none.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let found = NAMES.into_iter().filter_map(|name| {
            let value = variable(&format!("{PREFIX}{name}")).or_else(|| variable(name))?;
            // A file that ends in a newline becomes a Secret that does.
            let value = value.trim().to_owned();
            (!value.is_empty()).then_some((name, value))
        });
        Self(found.collect())
    }

    /// The value of a name in [`NAMES`].
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_wins_and_nothing_is_printed() {
        let credentials = Credentials::read(|name| match name {
            "FLOTILLA_SOURCE_HF_TOKEN" => Some("from-the-secret\n".to_owned()),
            "HF_TOKEN" => Some("from-outside".to_owned()),
            "AWS_REGION" => Some("eu-central-1".to_owned()),
            "AWS_SESSION_TOKEN" => Some(String::new()),
            _ => None,
        });
        assert_eq!(credentials.get("HF_TOKEN"), Some("from-the-secret"));
        assert_eq!(credentials.get("AWS_REGION"), Some("eu-central-1"));
        assert_eq!(credentials.get("AWS_SESSION_TOKEN"), None);
        assert_eq!(format!("{credentials:?}"), r#"{"AWS_REGION", "HF_TOKEN"}"#);
    }
}
