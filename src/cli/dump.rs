//! `dmacached dump`: all live records of a store that nobody serves, as a stream that `load` and memcached read.

use std::fs::File;
use std::io::{IsTerminal, Result, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::arguments::DATA_DIR_DEFAULT;
use super::progress::{Measure, Meter};
use super::sizes::show_size;
use crate::io::Io;
use crate::io::readonly::{self, ReadOnly};
use crate::limits::MIB;
use crate::recovery::export::{Export, ExportError, Exported, Exporting, export};
use crate::recovery::survey::Survey;
use crate::shard::stream::{STREAM_END, StreamItem, encode_stream_item};
use crate::shard::{KEY_BINARY, STALE};

/// Exit status when something is left out, or the stream cannot be written.
const INCOMPLETE: u8 = 1;
/// Exit status when the store cannot be read at all.
const NOT_READ: u8 = 3;
/// Bytes that are written at once.
const WRITE_SIZE: usize = MIB;

/// What to dump, and where to.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The stream is a conversation that any memcached since 1.6 understands (src/protocol/STREAM.md): `ms` with \
        the value, flags, expiry and CAS unique of each record, and `mn` at the end. Without that end it was cut short. \
        `dmacached load` makes a store of it; `nc -N HOST PORT` sends it to a server.\n\n\
        Nothing in the data directory is changed; no server may use it meanwhile. A store that was not stopped cleanly is \
        dumped as the next start would find it. Records that have expired are left out, and so are damaged ones, which are \
        counted. A file is there under its name when all of it is written, and not before. Memory: one table, and about \
        40 bytes per record.\n\n\
        A table that cannot be read where it says what it is ends the dump before it begins, as it does a start: what it says \
        is deleted or replaced would come back. With --force it is passed over.\n\n\
        Exit status: 0 when all is dumped, 1 when something is damaged and left out or the stream cannot be written, 2 for a \
        bad command line, 3 when the store cannot be read (it is in use, there is none, or a table is not readable)."
)]
pub(super) struct DumpArguments {
    /// Where the data lives
    #[arg(long, value_name = "DIR", default_value = DATA_DIR_DEFAULT)]
    data_dir: PathBuf,

    /// Leave out the CAS uniques, which memcached 1.6.18 does not take
    #[arg(long)]
    no_cas: bool,

    /// Pass over tables that cannot be read: older values and deleted records may be in the stream
    #[arg(long)]
    force: bool,

    /// Say only what is wrong
    #[arg(short = 'q', long)]
    quiet: bool,

    /// The file to write; -: standard output
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

/// Dumps, and says what that came to.
pub(super) fn run(arguments: &DumpArguments) -> ExitCode {
    match dump(arguments) {
        Ok(export) if export.damaged_count == 0 && export.unread.is_empty() => ExitCode::SUCCESS,
        Ok(export) => {
            for (path, why) in &export.unread {
                eprintln!("dmacached: {}: {why}", path.display());
            }
            if export.is_doubtful {
                eprintln!(
                    "dmacached: older values and deleted records may be in the stream: what such a table says is not known"
                );
            }
            let count = export.damaged_count;
            eprintln!("dmacached: {count} damaged records are left out; `dmacached verify` says more");
            ExitCode::from(INCOMPLETE)
        }
        Err(error @ ExportError::Survey(_)) => {
            eprintln!("dmacached: {error}");
            ExitCode::from(NOT_READ)
        }
        Err(error) => {
            eprintln!("dmacached: {}: {error}", arguments.file.display());
            ExitCode::from(INCOMPLETE)
        }
    }
}

fn dump(arguments: &DumpArguments) -> std::result::Result<Export, ExportError> {
    let io = ReadOnly::new();
    let survey = Survey::open(&io, &arguments.data_dir)?;
    let mut output = Output::open(&arguments.file).map_err(ExportError::Visit)?;
    let mut meter = Meter::new("dumping", arguments.quiet);
    let visit = |exported: &Exported<'_>| {
        let Exported { record, cas } = exported;
        let item = StreamItem {
            key: record.key,
            is_key_binary: record.header.bits & KEY_BINARY != 0,
            client_flags: record.header.client_flags,
            exptime: record.header.expiry.into(),
            cas: (!arguments.no_cas).then_some(*cas),
            is_stale: record.header.bits & STALE != 0,
        };
        encode_stream_item(&mut output.buffer, &item, record.value);
        output.write(WRITE_SIZE)
    };
    let progress = |Exporting { size_done, size, record_count, elapsed }| {
        meter.show(Measure { size_done, size: Some(size), record_count: Some(record_count), elapsed });
    };
    let exported = readonly::run(export(&survey, arguments.force, visit, progress));
    meter.finish();
    let exported = exported?;
    output.buffer.extend_from_slice(STREAM_END);
    let size = output.finish().map_err(ExportError::Visit)?;
    if !arguments.quiet {
        let seconds = io.monotonic().as_secs_f64().max(0.001);
        let rate = show_size((size as f64 / seconds) as u64);
        let (count, size) = (exported.record_count, show_size(size));
        eprintln!("dumped {count} records, {size} in {seconds:.1} s, {rate}/s");
    }
    Ok(exported)
}

/// Where the stream goes.
struct Output {
    file: Target,
    buffer: Vec<u8>,
    size: u64,
    is_finished: bool,
}

enum Target {
    Standard(std::io::Stdout),
    /// A pipe or the like.
    Other(File),
    /// A file, which gets its name when all is written.
    New {
        file: File,
        temporary: PathBuf,
        path: PathBuf,
    },
}

impl Output {
    fn open(path: &Path) -> Result<Self> {
        let file = if path == Path::new("-") {
            let standard = std::io::stdout();
            if standard.is_terminal() {
                return Err(std::io::Error::other("this is a terminal: name a file, or send the stream to a program"));
            }
            Target::Standard(standard)
        } else if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            Target::Other(File::options().write(true).open(path)?)
        } else {
            let mut temporary = path.as_os_str().to_owned();
            temporary.push(".part");
            let temporary = PathBuf::from(temporary);
            Target::New { file: File::create(&temporary)?, temporary, path: path.to_path_buf() }
        };
        Ok(Self { file, buffer: Vec::with_capacity(2 * WRITE_SIZE), size: 0, is_finished: false })
    }

    /// Writes what there is, if it is that much.
    fn write(&mut self, least: usize) -> Result<()> {
        if self.buffer.len() < least {
            return Ok(());
        }
        match &mut self.file {
            Target::Standard(standard) => standard.write_all(&self.buffer)?,
            Target::Other(file) | Target::New { file, .. } => file.write_all(&self.buffer)?,
        }
        self.size += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the rest, and returns how many bytes it all was. A file is on stable media then.
    fn finish(mut self) -> Result<u64> {
        self.write(0)?;
        match &mut self.file {
            Target::Standard(standard) => standard.flush()?,
            Target::Other(_) => {}
            Target::New { file, temporary, path } => {
                file.sync_all()?;
                std::fs::rename(temporary, &*path)?;
                let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
            }
        }
        self.is_finished = true;
        Ok(self.size)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let (Target::New { temporary, .. }, false) = (&self.file, self.is_finished) {
            // Half a dump would only take space; why it is half is told elsewhere.
            let _ = std::fs::remove_file(temporary);
        }
    }
}
