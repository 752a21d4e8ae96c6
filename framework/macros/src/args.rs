//! Attributes: their options, with errors that say what stood there and what to write.

use std::time::Duration;

use proc_macro2::{Ident, Span};
use quote::ToTokens;
use syn::meta::ParseNestedMeta;
use syn::parse::Parse;
use syn::{Attribute, Expr, ExprLit, Lit, LitStr, Meta, Path, Token, Type};

use crate::naming::suggestion;

/// Reads every `#[attribute(option, option = value, option(…))]` among `attrs`.
///
/// `each` is called with the name of a known option, once for each name.
pub(crate) fn read(
    attrs: &[Attribute],
    attribute: &str,
    known: &[&str],
    mut each: impl FnMut(&str, &ParseNestedMeta<'_>) -> syn::Result<()>,
) -> syn::Result<()> {
    let mut seen = Vec::new();
    for attr in attrs.iter().filter(|a| a.path().is_ident(attribute)) {
        if !matches!(attr.meta, Meta::List(_)) {
            return Err(syn::Error::new_spanned(
                attr,
                format!(
                    "`#[{attribute}]` wants its options in parentheses: `#[{attribute}({} …)]`",
                    known[0]
                ),
            ));
        }
        attr.parse_nested_meta(|meta| option(attribute, known, &mut seen, &meta, &mut each))?;
    }
    Ok(())
}

/// One option of an attribute or of a group of options: known, given once, then read by `each`.
pub(crate) fn option(
    group: &str,
    known: &[&str],
    seen: &mut Vec<String>,
    meta: &ParseNestedMeta<'_>,
    each: &mut impl FnMut(&str, &ParseNestedMeta<'_>) -> syn::Result<()>,
) -> syn::Result<()> {
    let name = text_of(&meta.path);
    if !known.contains(&name.as_str()) {
        return Err(meta.error(format!("`{group}` has no option `{name}`: {}", suggestion(&name, known))));
    }
    if seen.contains(&name) {
        return Err(meta.error(format!("`{name}` is given twice: leave one")));
    }
    each(&name, meta)?;
    seen.push(name);
    Ok(())
}

/// The tokens as a user would write them.
pub(crate) fn text_of(tokens: impl ToTokens) -> String {
    tokens
        .to_token_stream()
        .to_string()
        .replace(" :: ", "::")
        .replace(":: ", "::")
        .replace(" < ", "<")
        .replace(" >", ">")
}

/// The doc comment behind `#[doc = "…"]` attributes, lines joined, without the leading blank.
pub(crate) fn doc_of(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
                let text = text.value();
                Some(text.strip_prefix(' ').unwrap_or(&text).trim_end().to_owned())
            }
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn value<'a, T: Parse>(meta: &ParseNestedMeta<'a>, name: &str, wants: &str, example: &str) -> syn::Result<T> {
    if !meta.input.peek(Token![=]) {
        return Err(meta.error(format!("`{name}` wants {wants}: write `{name} = {example}`")));
    }
    let input = meta.value()?;
    let span = input.span();
    input.parse().map_err(|_: syn::Error| {
        syn::Error::new(span, format!("`{name}` wants {wants}: write `{name} = {example}`"))
    })
}

fn literal(
    meta: &ParseNestedMeta<'_>,
    name: &str,
    wants: &str,
    example: &str,
) -> syn::Result<(Expr, Option<Lit>)> {
    let expr: Expr = value(meta, name, wants, example)?;
    let lit = match &expr {
        Expr::Lit(ExprLit { lit, .. }) => Some(lit.clone()),
        _ => None,
    };
    Ok((expr, lit))
}

/// An option without a value.
pub(crate) fn flag(meta: &ParseNestedMeta<'_>, name: &str) -> syn::Result<()> {
    if meta.input.peek(Token![=]) || meta.input.peek(syn::token::Paren) {
        return Err(meta.error(format!("`{name}` stands alone: write `{name}`")));
    }
    Ok(())
}

/// An option whose value is text.
pub(crate) fn text(meta: &ParseNestedMeta<'_>, name: &str, example: &str) -> syn::Result<LitStr> {
    let (expr, lit) = literal(meta, name, "text", &format!("{example:?}"))?;
    match lit {
        Some(Lit::Str(text)) => Ok(text),
        _ => Err(syn::Error::new_spanned(
            &expr,
            format!("`{name}` wants text such as {example:?}, got `{}`", text_of(&expr)),
        )),
    }
}

/// An option whose value is one of a few words, as text.
pub(crate) fn word(meta: &ParseNestedMeta<'_>, name: &str, known: &[&str]) -> syn::Result<String> {
    let text = text(meta, name, known[0])?;
    let word = text.value();
    if known.contains(&word.as_str()) {
        return Ok(word);
    }
    Err(syn::Error::new_spanned(&text, format!("`{name}` is never {word:?}: {}", suggestion(&word, known))))
}

/// An option whose value is a whole number from `min` to `max`, in some unit.
pub(crate) fn number(
    meta: &ParseNestedMeta<'_>,
    name: &str,
    unit: &str,
    example: u64,
    range: std::ops::RangeInclusive<u64>,
) -> syn::Result<u64> {
    let wants = format!("a number of {unit}");
    let (expr, lit) = literal(meta, name, &wants, &example.to_string())?;
    let number = match lit {
        Some(Lit::Int(number)) if number.suffix().is_empty() => number.base10_parse::<u64>().ok(),
        _ => {
            return Err(syn::Error::new_spanned(
                &expr,
                format!("`{name}` wants {wants} such as {example}, got `{}`", text_of(&expr)),
            ));
        }
    };
    number.filter(|n| range.contains(n)).ok_or_else(|| {
        syn::Error::new_spanned(
            &expr,
            format!("`{name}` is from {} to {} {unit}, got `{}`", range.start(), range.end(), text_of(&expr)),
        )
    })
}

/// An option whose value is a length of time above zero, as text.
pub(crate) fn duration(meta: &ParseNestedMeta<'_>, name: &str, example: &str) -> syn::Result<Duration> {
    let text = text(meta, name, example)?;
    parse_duration(&text.value()).ok_or_else(|| {
        syn::Error::new_spanned(
            &text,
            format!(
                "`{name}` wants text such as {example:?}, got {:?}: a whole number above 0 with ms, s, m, h or d",
                text.value()
            ),
        )
    })
}

/// `2s`, `250ms`, `5m`, `1h`, `1d`: a whole number above zero and its unit; at most ten years.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    const DURATION_MS_MAX: u64 = 3650 * 86_400_000;
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unit_ms = match text[digits..].trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let ms = text[..digits].parse::<u64>().ok()?.checked_mul(unit_ms)?;
    (1..=DURATION_MS_MAX).contains(&ms).then(|| Duration::from_millis(ms))
}

/// An option whose value is a type.
pub(crate) fn ty(meta: &ParseNestedMeta<'_>, name: &str, example: &str) -> syn::Result<Type> {
    if meta.input.peek(Token![=]) && meta.input.peek2(LitStr) {
        let text = meta.value()?.parse::<LitStr>()?;
        return Err(syn::Error::new_spanned(
            &text,
            format!(
                "`{name}` wants a type such as `{example}`, got {:?}: leave the quotes away",
                text.value()
            ),
        ));
    }
    value(meta, name, "a type", example)
}

/// An option whose value is a name.
pub(crate) fn ident(meta: &ParseNestedMeta<'_>, name: &str, example: &str) -> syn::Result<Ident> {
    value(meta, name, "a name", example)
}

/// The value of `crate = "path"`.
pub(crate) fn crate_path(meta: &ParseNestedMeta<'_>) -> syn::Result<Path> {
    let text = text(meta, "crate", "::afflux")?;
    text.parse_with(Path::parse_mod_style).map_err(|_| {
        syn::Error::new_spanned(
            &text,
            format!("`crate` wants a path such as \"::afflux\", got {:?}", text.value()),
        )
    })
}

/// `::afflux`, where the generated code finds everything unless `crate = "…"` says otherwise.
pub(crate) fn default_crate() -> Path {
    let mut path = Path::from(Ident::new("afflux", Span::call_site()));
    path.leading_colon = Some(Token![::](Span::call_site()));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_a_whole_number_and_its_unit() {
        assert_eq!(parse_duration("2s"), Some(Duration::from_secs(2)));
        assert_eq!(parse_duration("250 ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1d"), Some(Duration::from_secs(86_400)));
        for wrong in
            ["", "2", "s", "0s", "-1s", "1.5s", "2 seconds", "99999999999999999999s", "99999999d", "٣s"]
        {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn doc_lines_are_joined_without_their_leading_blank() {
        let item: syn::ItemStruct = syn::parse_quote! {
            /// One.
            ///
            ///   - two
            struct S;
        };
        assert_eq!(doc_of(&item.attrs), "One.\n\n  - two");
    }
}
