//! Just enough of Rust's grammar to check rules: comments and literals blanked, test code removed, functions found.

/// `source` with every comment, string and character literal replaced by blanks; line ends stay where they are.
pub(crate) fn blanked(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut result = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while position < bytes.len() {
        let end = literal_end(bytes, position);
        if end == position {
            result.push(bytes[position]);
            position += 1;
        } else {
            result.extend(bytes[position..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            position = end;
        }
    }
    String::from_utf8_lossy(&result).into_owned()
}

/// Where the comment or literal that begins at `start` ends; `start` itself if none does.
fn literal_end(bytes: &[u8], start: usize) -> usize {
    let rest = &bytes[start..];
    let in_word = start > 0 && (bytes[start - 1].is_ascii_alphanumeric() || bytes[start - 1] == b'_');
    if rest.starts_with(b"//") {
        return start + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return start + block_comment_size(rest);
    }
    let prefix = rest.iter().take_while(|byte| matches!(byte, b'b' | b'c' | b'r')).count();
    let prefix = if in_word || prefix > 2 { 0 } else { prefix };
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    match rest.get(prefix + hashes) {
        Some(b'"') if rest[..prefix].contains(&b'r') => {
            let close = [&b"\""[..], &vec![b'#'; hashes]].concat();
            let body = prefix + hashes + 1;
            let size = rest[body..].windows(close.len()).position(|window| window == close);
            start + size.map_or(rest.len(), |size| body + size + close.len())
        }
        Some(b'"') if hashes == 0 => start + prefix + quoted_size(&rest[prefix..]),
        // A character, unless it is a lifetime: 'a' and '\n' are closed, 'a is not.
        Some(b'\'') if hashes == 0 && (rest.get(prefix + 1) == Some(&b'\\') || is_character(&rest[prefix..])) => {
            start + prefix + quoted_size(&rest[prefix..])
        }
        _ => start,
    }
}

/// Whether one character stands between quotes here.
fn is_character(rest: &[u8]) -> bool {
    let size = match rest.get(1) {
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        _ => 1,
    };
    rest.get(1 + size) == Some(&b'\'')
}

/// The size of a literal with its quotes, where `rest` begins with one.
fn quoted_size(rest: &[u8]) -> usize {
    let mut position = 1;
    while position < rest.len() && rest[position] != rest[0] {
        position += if rest[position] == b'\\' { 2 } else { 1 };
    }
    (position + 1).min(rest.len())
}

/// The size of a block comment, which may hold others.
fn block_comment_size(rest: &[u8]) -> usize {
    let (mut depth, mut position) = (0, 0);
    while position < rest.len() {
        if rest[position..].starts_with(b"/*") {
            depth += 1;
            position += 2;
        } else if rest[position..].starts_with(b"*/") {
            depth -= 1;
            position += 2;
            if depth == 0 {
                break;
            }
        } else {
            position += 1;
        }
    }
    position
}

/// Blanked `code` without the items under `#[cfg(test)]` and `#[test]`.
pub(crate) fn without_tests(code: &str) -> String {
    let mut result = code.to_owned();
    for attribute in ["#[cfg(test)]", "#[test]"] {
        while let Some(start) = result.find(attribute) {
            let end = item_end(&result, start + attribute.len());
            let blank: String =
                result[start..end].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }).collect();
            result.replace_range(start..end, &blank);
        }
    }
    result
}

/// Where the item that begins at `start` ends: behind its `;`, or behind the braces of its body.
fn item_end(code: &str, start: usize) -> usize {
    let (mut depth, mut brackets) = (0, 0);
    for (offset, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth <= 0 {
                    return offset + 1;
                }
            }
            b';' if depth == 0 && brackets == 0 => return offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// The words of blanked `code`, each with its offset.
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    code.split(move |letter| !is_word(letter))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// The functions of blanked `code` that have a body: name, first line counted from 1, number of lines.
pub(crate) fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut functions = Vec::new();
    let mut expects_name = false;
    for (offset, word) in words(code) {
        if expects_name && !code[..offset].trim_end().ends_with("fn") {
            expects_name = false;
        }
        if expects_name {
            let end = item_end(code, offset);
            let first = code[..offset].matches('\n').count() + 1;
            functions.push((word.to_owned(), first, code[offset..end].matches('\n').count() + 1));
        }
        expects_name = word == "fn";
    }
    functions
}

/// The names that stand right behind `crate::` in blanked `code`, those in braces one by one.
pub(crate) fn crate_paths(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        let rest = code[start + "crate::".len()..].trim_start();
        match rest.strip_prefix('{') {
            None => names.extend(words(rest).next().map(|(_, name)| name.to_owned())),
            Some(list) => names.extend(first_names(list)),
        }
    }
    names
}

/// The first word of each part of a list that ends with its closing brace.
fn first_names(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for letter in list.chars() {
        match letter {
            '}' if depth == 0 => break,
            ',' if depth == 0 => parts.push(String::new()),
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        parts.last_mut().expect("there is always a part").push(letter);
    }
    parts.iter().filter_map(|part| words(part).next().map(|(_, name)| name.to_owned())).collect()
}

#[test]
fn comments_and_literals_are_blanked_and_lifetimes_stay() {
    let source = "a /* x /* y */ z */ b // c\n\"d \\\" e\" 'f' '\\'' &'g str r#\"h \" i\"# b\"j\" b'k' l";
    let words: Vec<String> = words(&blanked(source)).map(|(_, word)| word.to_owned()).collect();
    assert_eq!(words, ["a", "b", "g", "str", "l"]);
    assert_eq!(blanked(source).len(), source.len());
}

#[test]
fn functions_are_measured_and_tests_are_left_out() {
    let code = "fn a(x: [u8; 2]) -> u8 {\n  x\n}\n\
        trait T { fn b(&self); }\n#[cfg(test)]\nmod tests {\n fn c() {}\n}\nfn d() {}\n";
    assert_eq!(functions(&without_tests(code)), [("a".into(), 1, 3), ("b".into(), 4, 1), ("d".into(), 9, 1)]);
}

#[test]
fn paths_are_found_in_uses_and_in_lists() {
    let code = "use crate::limits::X; use crate::{store::{a, b}, index, io::c};\n\
        let x = crate::clock::now(); pub(crate) fn d() {}";
    assert_eq!(crate_paths(code), ["limits", "store", "index", "io", "clock"]);
}
