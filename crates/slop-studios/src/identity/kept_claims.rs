//! The stored claims of an identity: the claims that a rule of the policy names, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::numbers::{is_number, number_text};

/// Separates the elements of a stored list. No element contains it, since no name and no template has a control
/// character.
const SEPARATOR: char = '\n';

/// The path of a claim in a token: its name, or several names for a nested claim, as in `realm_access` → `roles`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimPath(Box<[Box<str>]>);

impl ClaimPath {
    /// A path of these names; `None` if there are no names, or one of them cannot be a name.
    #[must_use]
    pub fn new(names: Vec<String>) -> Option<Self> {
        let is_name = |name: &String| !name.is_empty() && !name.chars().any(char::is_control);
        (!names.is_empty() && names.iter().all(is_name)).then(|| Self(names.into_iter().map(Into::into).collect()))
    }

    fn find<'c>(&self, claims: &Members<'c>) -> Option<&'c RawValue> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(*claims.get(&**first)?, |object, name| members(object)?.remove(&**name))
    }

    /// The key under which the claim is stored. Distinct paths have distinct keys.
    fn key(&self) -> String {
        self.0.join(&SEPARATOR.to_string())
    }
}

/// The unparsed members of an object: a number is compared as written, before it can be rounded.
type Members<'c> = BTreeMap<String, &'c RawValue>;

fn members(json: &RawValue) -> Option<Members<'_>> {
    serde_json::from_str(json.get()).ok()
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" → "))
    }
}

/// The claims that the rules in force name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedClaims(BTreeSet<ClaimPath>);

impl FromIterator<ClaimPath> for NamedClaims {
    fn from_iter<I: IntoIterator<Item = ClaimPath>>(paths: I) -> Self {
        Self(paths.into_iter().collect())
    }
}

impl NamedClaims {
    /// The values of these claims in a token. The token must have been verified: this checks no signature.
    #[must_use]
    pub fn of_verified_token(&self, token: &str) -> KeptClaims {
        if self.0.is_empty() {
            return KeptClaims::default();
        }
        // The token was parsed a moment ago, so it can be parsed.
        let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Box<RawValue>>(token);
        claims.map(|claims| self.of(&claims)).unwrap_or_default()
    }

    pub(crate) fn of(&self, claims: &RawValue) -> KeptClaims {
        let claims = members(claims).unwrap_or_default();
        let keep = |path: &ClaimPath| Some((path.key().into(), Kept::of(path.find(&claims)?)?));
        KeptClaims(self.0.iter().filter_map(keep).collect())
    }
}

/// The claims of a token that rules name. Never longer than the token.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeptClaims(BTreeMap<Box<str>, Kept>);

impl fmt::Debug for KeptClaims {
    /// Without the values, which are the user's own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A claim that can be compared with a name.
#[derive(Clone, PartialEq, Eq)]
enum Kept {
    /// A string, or a number or boolean as JavaScript writes it.
    One(Box<str>),
    /// A list of such values, as one text: a thousand short separate texts would take forty times the bytes.
    Many(Box<str>),
}

impl KeptClaims {
    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, path: &ClaimPath) -> Option<&Kept> {
        self.0.get(path.key().as_str())
    }

    /// Whether the claim is this text: a string, a number or a boolean, not a list.
    pub(crate) fn equals(&self, path: &ClaimPath, wanted: &str) -> bool {
        matches!(self.get(path), Some(Kept::One(text)) if &**text == wanted)
    }

    /// Whether the claim is a list with this element, or a text with this word, as in OAuth's `scope` (RFC 8693 §4.2).
    pub(crate) fn contains(&self, path: &ClaimPath, wanted: &str) -> bool {
        match self.get(path) {
            _ if wanted.is_empty() => false,
            Some(Kept::One(text)) => text.split(' ').any(|word| word == wanted),
            Some(Kept::Many(elements)) => elements.split(SEPARATOR).any(|element| element == wanted),
            None => false,
        }
    }

    /// A description of the claim: "is missing", "is a list of 3", "is \"a\"".
    pub(crate) fn describe(&self, path: &ClaimPath) -> String {
        match self.get(path) {
            None => "is missing".to_owned(),
            Some(Kept::One(text)) => format!("is {text:?}"),
            Some(Kept::Many(elements)) => match elements.split(SEPARATOR).filter(|one| !one.is_empty()).count() {
                0 => "is an empty list".to_owned(),
                count => format!("is a list of {count}"),
            },
        }
    }
}

impl Kept {
    fn of(claim: &RawValue) -> Option<Self> {
        if !claim.get().starts_with('[') {
            return Some(Self::One(text(claim)?.into()));
        }
        let elements: Vec<&RawValue> = serde_json::from_str(claim.get()).ok()?;
        let texts: Vec<String> = elements.into_iter().filter_map(text).collect();
        Some(Self::Many(texts.join(&SEPARATOR.to_string()).into()))
    }
}

/// The text of a value that can equal a name or a part of one. Empty texts, texts with control characters, and numbers
/// that other readers may have rounded cannot.
fn text(value: &RawValue) -> Option<String> {
    let text = match value.get() {
        truth @ ("true" | "false") => truth.to_owned(),
        number if is_number(number) => number_text(number)?,
        text => serde_json::from_str(text).ok()?,
    };
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(text) => serializer.serialize_str(text),
            Self::Many(elements) => serializer.collect_seq(elements.split(SEPARATOR)),
        }
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Saved {
            One(Box<str>),
            Many(Vec<String>),
        }
        Ok(match Saved::deserialize(deserializer)? {
            Saved::One(text) => Self::One(text),
            Saved::Many(elements) => Self::Many(elements.join(&SEPARATOR.to_string()).into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;
    use serde_json::{Value, json};

    use super::*;

    fn path(names: &[&str]) -> ClaimPath {
        ClaimPath::new(names.iter().map(|name| (*name).to_owned()).collect()).expect("a path")
    }

    fn kept(claims: &Value, names: &[&[&str]]) -> KeptClaims {
        let named: NamedClaims = names.iter().map(|names| path(names)).collect();
        named.of(&to_raw_value(claims).expect("JSON"))
    }

    /// The kept claims of a token whose claim `c` has this JSON.
    fn kept_literal(json: &str) -> KeptClaims {
        let claims = RawValue::from_string(format!("{{\"c\":{json}}}")).expect("JSON");
        NamedClaims::from_iter([path(&["c"])]).of(&claims)
    }

    #[test]
    fn a_number_that_is_not_exact_is_no_name() {
        let claim = path(&["c"]);
        for (literal, rounded) in [
            ("9007199254740993", "9007199254740992"),
            ("9007199254740993.0", "9007199254740992"),
            ("18446744073709551617", "18446744073709551616"),
            ("1.00000000000000000001", "1"),
            ("0.30000000000000000001", "0.3"),
            ("1e400", "inf"),
        ] {
            for text in [literal, rounded] {
                assert!(!kept_literal(literal).equals(&claim, text), "{literal} is not {text}");
                assert!(!kept_literal(&format!("[7,{literal}]")).contains(&claim, text), "{literal} is not {text}");
            }
        }
        assert!(kept_literal("4.2e1").equals(&claim, "42") && kept_literal("[1.5]").contains(&claim, "1.5"));
        assert!(kept_literal("9007199254740991").equals(&claim, "9007199254740991"));
    }

    #[test]
    fn only_what_rules_name_is_kept() {
        let claims = json!({"projects": ["a", 7], "secret": "s", "realm_access": {"roles": ["r"]}, "team": "red"});
        let kept = kept(&claims, &[&["projects"], &["realm_access", "roles"], &["missing"]]);
        assert_eq!(
            serde_json::to_value(&kept).expect("JSON"),
            json!({"projects": ["a", "7"], "realm_access\nroles": ["r"]})
        );
        assert!(kept.contains(&path(&["realm_access", "roles"]), "r"));
        assert!(!kept.contains(&path(&["team"]), "red"));
        let back: KeptClaims = serde_json::from_value(serde_json::to_value(&kept).expect("JSON")).expect("kept");
        assert_eq!(back, kept);
        assert_eq!(format!("{kept:?}"), r#"{"projects", "realm_access\nroles"}"#);
    }

    #[test]
    fn claims_are_compared_as_texts() {
        let claims = json!({
            "list": ["a", 12, 1.5, true, "b c", "", "x\ny", null, {"k": 1}, ["n"]], "words": "read write",
            "number": 42.0, "truth": false, "empty": [], "object": {"a": 1}, "null": null,
        });
        let names = [["list"], ["words"], ["number"], ["truth"], ["empty"], ["object"], ["null"]];
        let names: Vec<&[&str]> = names.iter().map(|name| name.as_slice()).collect();
        let kept = kept(&claims, &names);
        let contains = |name: &str, wanted: &str| kept.contains(&path(&[name]), wanted);
        for element in ["a", "12", "1.5", "true", "b c"] {
            assert!(contains("list", element), "{element}");
        }
        for other in ["", "x", "y", "x\ny", "null", "b", "n", "1"] {
            assert!(!contains("list", other), "{other:?}");
        }
        assert!(contains("words", "read") && contains("words", "write") && !contains("words", "read write"));
        assert!(kept.equals(&path(&["words"]), "read write") && !kept.equals(&path(&["list"]), "a"));
        assert!(kept.equals(&path(&["number"]), "42") && kept.equals(&path(&["truth"]), "false"));
        assert!(!contains("empty", "") && !contains("object", "a") && !contains("null", "null"));
    }

    #[test]
    fn what_nobody_asks_for_is_not_kept() {
        assert!(kept(&json!({"a": 1}), &[]).is_empty());
        assert!(kept(&json!({"a": {"b": {}}}), &[&["a"], &["a", "b"], &["a", "b", "c"]]).is_empty());
    }
}
