//! The dynamic loader that an executable asks for, which the system it runs on must have.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The segment type that names the loader (`PT_INTERP` in `linux/elf.h`).
const PT_INTERP: u32 = 3;

/// Program headers looked at, at most; real executables have about a dozen.
const HEADERS_MAX: u16 = 128;

/// Bytes of the loader's path at most (`PATH_MAX`, as the kernel's `load_elf_binary` demands).
const PATH_BYTES_MAX: u64 = 4096;

/// The loader named in an executable; `None` for anything that is not a dynamic executable of 64 bits and little
/// endian, the only ones of the machines twinshare runs on.
pub(super) fn loader(executable: &File) -> Option<PathBuf> {
    read_loader(executable).ok().flatten()
}

fn read_loader(file: &File) -> io::Result<Option<PathBuf>> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    if header[..6] != [0x7f, b'E', b'L', b'F', 2, 1] {
        return Ok(None);
    }
    let (table, size, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
    if size != 56 {
        return Ok(None);
    }
    for index in 0..count.min(HEADERS_MAX) {
        let mut segment = [0; 56];
        let Some(at) = table.checked_add(u64::from(index) * 56) else {
            return Ok(None);
        };
        file.read_exact_at(&mut segment, at)?;
        if u32::from_le_bytes([segment[0], segment[1], segment[2], segment[3]]) == PT_INTERP {
            return path_in(file, u64_at(&segment, 8), u64_at(&segment, 32));
        }
    }
    Ok(None)
}

fn path_in(file: &File, at: u64, bytes: u64) -> io::Result<Option<PathBuf>> {
    let mut path = vec![0; bytes.min(PATH_BYTES_MAX) as usize];
    file.read_exact_at(&mut path, at)?;
    path.truncate(path.iter().position(|byte| *byte == 0).unwrap_or(path.len()));
    let path = PathBuf::from(OsString::from_vec(path));
    Ok(Some(path).filter(|path| path.is_absolute()))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes[at..].first_chunk().map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn own() -> File {
        File::open(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn this_test_names_its_loader() {
        let loader = loader(&own()).unwrap();
        assert!(loader.is_file(), "{loader:?}");
    }

    #[test]
    fn other_files_have_none() {
        let mut start = [0; 64];
        own().read_exact_at(&mut start, 0).unwrap();
        let mut far = start;
        far[32..40].fill(0xff);
        for content in [&b""[..], b"#!/bin/sh\n", &start, &start[..63], &[0x7f; 200], &far] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content).unwrap();
            assert_eq!(loader(&file), None);
        }
    }
}
