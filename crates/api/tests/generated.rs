//! The checked-in bindings are what `proto/` generates.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// Messages with secrets in them: they have no `Debug`.
const SECRETS: [&str; 3] = [
    ".medanchor.access.v1.CreateFactorResponse",
    ".medanchor.access.v1.ConfirmFactorRequest",
    ".medanchor.access.v1.VerifyFactorRequest",
];

/// `UPDATE=1 cargo test -p medanchor-api --test generated` rewrites them.
#[test]
fn generated_code_is_current() -> Result<(), Box<dyn Error>> {
    let proto_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = proto_files(&proto_dir)?;
    let mut descriptors = protox::Compiler::new([&proto_dir])?;
    descriptors
        .include_source_info(true)
        .include_imports(true)
        .open_files(&files)?;
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .bytes(".medanchor.block.v1")
        .skip_debug(SECRETS)
        .out_dir(out.path())
        .compile_fds(descriptors.file_descriptor_set())?;
    // Served by reflection: without comments, which would only make it larger.
    let mut lean = protox::Compiler::new([&proto_dir])?;
    lean.include_source_info(false)
        .include_imports(true)
        .open_files(&files)?;
    fs::write(
        out.path().join("descriptors.bin"),
        lean.encode_file_descriptor_set(),
    )?;
    compare_or_update(
        out.path(),
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen"),
    )
}

fn proto_files(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn compare_or_update(fresh: &Path, checked_in: &Path) -> Result<(), Box<dyn Error>> {
    let update = std::env::var_os("UPDATE").is_some();
    let mut names = Vec::new();
    for entry in fs::read_dir(fresh)? {
        let entry = entry?;
        let target = checked_in.join(entry.file_name());
        names.push(entry.file_name());
        let bytes = fs::read(entry.path())?;
        if update {
            fs::write(&target, bytes)?;
        } else {
            assert!(
                fs::read(&target).is_ok_and(|old| old == bytes),
                "{} is not what proto/ generates; run with UPDATE=1",
                target.display()
            );
        }
    }
    for entry in fs::read_dir(checked_in)? {
        let name = entry?.file_name();
        assert!(names.contains(&name), "{name:?} is not generated any more");
    }
    Ok(())
}
