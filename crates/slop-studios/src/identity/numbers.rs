//! JSON values that name something: a user, a token, or a value to compare a claim with. A number is a name only if
//! every reader of JSON reads the same number: most readers round to 64-bit floats, so two users could become one.

use serde_json::value::RawValue;

/// JavaScript's `Number.MAX_SAFE_INTEGER`: larger integers are rounded.
const LARGEST_EXACT: u64 = (1 << 53) - 1;

/// The text by which a string or a number is compared: `42.0` is `42`, so that the number in a token equals the string
/// of a publisher. `None` for other values, for numbers that are not integers, and for inexact numbers.
pub(super) fn id_text(json: &RawValue) -> Option<String> {
    string(json).or_else(|| exact_integer(json.get()).map(|integer| integer.to_string()))
}

/// As [`id_text`], and the digits as written for any other number, which is compared only with itself.
pub(super) fn literal_text(json: &RawValue) -> Option<String> {
    id_text(json).or_else(|| is_number(json.get()).then(|| json.get().to_owned()))
}

/// As [`id_text`], and a fraction in its shortest form, as JavaScript writes it. `None` for a fraction in another form,
/// because it may have been rounded.
pub(crate) fn number_text(literal: &str) -> Option<String> {
    let shortest = || literal.parse::<f64>().ok().filter(|float| float.fract() != 0.0 && float.to_string() == literal);
    let integer = exact_integer(literal).map(|integer| integer.to_string());
    integer.or_else(|| shortest().map(|float| float.to_string()))
}

fn string(json: &RawValue) -> Option<String> {
    json.get().starts_with('"').then(|| serde_json::from_str(json.get()).ok()).flatten()
}

pub(crate) fn is_number(json: &str) -> bool {
    json.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// The value of a JSON number, if it is an integer that every reader reads exactly.
fn exact_integer(literal: &str) -> Option<i64> {
    if !is_number(literal) {
        return None;
    }
    let (mantissa, exponent) = literal.split_once(['e', 'E']).unwrap_or((literal, "0"));
    let (is_negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let written = format!("{whole}{fraction}");
    let digits = written.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // The number is `significant` times ten to the power of `zeros`.
    let dropped = i64::try_from(digits.len() - significant.len()).ok()?;
    let zeros = exponent.parse::<i32>().ok()?;
    let zeros = i64::from(zeros) - i64::try_from(fraction.len()).ok()? + dropped;
    let factor = 10u64.checked_pow(u32::try_from(zeros).ok()?)?;
    let value = significant.parse::<u64>().ok()?.checked_mul(factor).filter(|value| *value <= LARGEST_EXACT)?;
    let value = i64::try_from(value).ok()?;
    Some(if is_negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_exact_or_none() {
        for (literal, expected) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("0.000e9", Some(0)),
            ("0e999999999999", Some(0)),
            ("42", Some(42)),
            ("42.0", Some(42)),
            ("4.2e1", Some(42)),
            ("420E-1", Some(42)),
            ("4200.00e-2", Some(42)),
            ("-7", Some(-7)),
            ("9007199254740991", Some(9_007_199_254_740_991)),
            ("-9007199254740991", Some(-9_007_199_254_740_991)),
            ("9.007199254740991e+15", Some(9_007_199_254_740_991)),
            ("1000000000000000000000000e-24", Some(1)),
            ("9007199254740992", None),
            ("9007199254740993", None),
            ("9007199254740993.0", None),
            ("-9007199254740992", None),
            ("18446744073709551615", None),
            ("18446744073709551616", None),
            ("1e16", None),
            ("1e300", None),
            ("1e999999999999", None),
            ("1.5", None),
            ("42.00000000000000000001", None),
            ("1e-400", None),
            ("1e-999999999999", None),
        ] {
            assert_eq!(exact_integer(literal), expected, "{literal}");
        }
    }

    #[test]
    fn fractions_count_in_their_shortest_form() {
        for (literal, expected) in [
            ("1.5", Some("1.5")),
            ("-0.25", Some("-0.25")),
            ("12", Some("12")),
            ("42.0", Some("42")),
            ("1.50", None),
            ("0.1000000000000000000001", None),
            ("9007199254740993", None),
            ("1e-7", None),
        ] {
            assert_eq!(number_text(literal).as_deref(), expected, "{literal}");
        }
    }

    proptest! {
        /// Two literals with the same text are the same number, whatever their length.
        #[test]
        fn what_is_exact_is_what_a_float_says(literal in "-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,6})?([eE][+-]?[0-9]{1,2})?") {
            if let Some(integer) = exact_integer(&literal) {
                let float: f64 = literal.parse().expect("a number");
                prop_assert_eq!(float, integer as f64);
                prop_assert_eq!(exact_integer(&integer.to_string()), Some(integer));
            }
        }
    }
}
