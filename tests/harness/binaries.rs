//! The programs under test, as they are built from this tree.

use std::path::PathBuf;

use crate::server::target_directory;

/// Where these programs are built already, from what is to be tested: whoever sets it has seen to that. Nothing is built then.
const BUILT_VARIABLE: &str = "SLABRING_BUILT";

/// The path of the binary of the package `name`, whose name it has, built in the profile of this test.
///
/// # Panics
///
/// If it does not build.
pub(crate) fn built(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os(BUILT_VARIABLE) {
        let path = PathBuf::from(directory).join(name);
        assert!(path.is_file(), "{BUILT_VARIABLE} says that {} is built", path.display());
        return path;
    }
    let build = escargot::CargoBuild::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .package(name)
        .bin(name)
        .target_dir(target_directory())
        .current_release();
    let run = build.run().unwrap_or_else(|error| panic!("{name} does not build: {error}"));
    run.path().to_owned()
}
