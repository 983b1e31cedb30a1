//! Keys in base64, as memcached reads and writes them: what is not in the alphabet is passed over while reading, which no
//! library does.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const PAD: u8 = b'=';
/// Not in the alphabet.
const NONE: u8 = 0xff;

const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values[PAD as usize] = 0;
    values
};

/// Decodes `text` to the front of `target` and returns how many bytes that are; `None` when there is nothing in it, its
/// letters are no multiple of four, or the padding is too long.
pub(in crate::protocol) fn decode(text: &[u8], target: &mut [u8]) -> Option<usize> {
    let letters = || text.iter().filter(|letter| VALUES[usize::from(**letter)] != NONE);
    let count = letters().count();
    if count == 0 || count % 4 != 0 || count / 4 * 3 > target.len() + 2 {
        return None;
    }
    let (mut size, mut quantum, mut position, mut pad_count) = (0, 0u32, 0, 0);
    for letter in letters() {
        pad_count += usize::from(*letter == PAD);
        quantum = quantum << 6 | u32::from(VALUES[usize::from(*letter)]);
        position += 1;
        if position == 4 {
            if pad_count > 2 {
                return None;
            }
            let bytes = [quantum >> 16, quantum >> 8, quantum].map(|byte| byte as u8);
            for byte in &bytes[..3 - pad_count] {
                *target.get_mut(size)? = *byte;
                size += 1;
            }
            if pad_count > 0 {
                break;
            }
            (quantum, position) = (0, 0);
        }
    }
    Some(size)
}

/// Appends `bytes` in base64.
pub(in crate::protocol) fn encode(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let quantum = byte(0) << 16 | byte(1) << 8 | byte(2);
        let letter = |shift: u32| ALPHABET[(quantum >> shift & 63) as usize];
        out.extend_from_slice(&[letter(18), letter(12)]);
        out.push(if chunk.len() > 1 { letter(6) } else { PAD });
        out.push(if chunk.len() > 2 { letter(0) } else { PAD });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let mut target = [0; 250];
        decode(text, &mut target).map(|size| target[..size].to_vec())
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let bytes: Vec<u8> = (0..=255).collect();
        for size in 1..=187 {
            let mut text = Vec::new();
            encode(&mut text, &bytes[..size]);
            assert_eq!(decoded(&text).as_deref(), Some(&bytes[..size]));
        }
    }

    #[test]
    fn it_reads_as_memcached_does() {
        assert_eq!(decoded(b"Zm9v").as_deref(), Some(&b"foo"[..]));
        assert_eq!(decoded(b"Z!m9v\t").as_deref(), Some(&b"foo"[..]), "what is not in the alphabet is passed over");
        assert_eq!(decoded(b"AA==").as_deref(), Some(&b"\0"[..]));
        assert_eq!(decoded(b"AA==Zm9v").as_deref(), Some(&b"\0"[..]), "the padding ends it");
        for text in [&b""[..], b"A", b"AA=", b"AAA", b"!!!!", b"A===", b"===="] {
            assert_eq!(decoded(text), None, "{}", text.escape_ascii());
        }
    }
}
