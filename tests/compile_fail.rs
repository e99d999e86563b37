//! What must not compile, and says why.
//!
//! The refusal is a constant that is evaluated for each function given to `Process::spawn`, so it shows when a program is
//! built, not when it is checked, and the compiler's words around the message differ from version to version. Therefore
//! this builds a small package and looks for the message itself, instead of comparing all that the compiler prints.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MESSAGE: &str = "Process::spawn takes a function, or a closure that captures nothing: pass data as the argument";

/// A package in the target directory that has the files of `tests/compile_fail` as its programs.
fn package() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_fail");
    std::fs::create_dir_all(&package).unwrap();
    let mut manifest = format!(
        "[package]\nname = \"kinfolk-compile-fail\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\nkinfolk = {{ path = {root:?} }}\n"
    );
    for name in ["captures", "pointer", "pass"] {
        let file = root.join("tests/compile_fail").join(name).with_extension("rs");
        manifest += &format!("\n[[bin]]\nname = \"{name}\"\npath = {file:?}\n");
    }
    std::fs::write(package.join("Cargo.toml"), manifest).unwrap();
    // The versions that this package was resolved with, so that nothing is looked up.
    let _ = std::fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock"));
    package
}

fn cargo(package: &Path, command: &str, program: &str) -> Output {
    Command::new(env!("CARGO"))
        .args([command, "--quiet", "--bin", program, "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", package.join("target"))
        .output()
        .unwrap()
}

#[test]
fn a_function_with_data_in_it_does_not_compile_and_the_compiler_says_why() {
    let package = package();
    let output = cargo(&package, "run", "pass");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for program in ["captures", "pointer"] {
        let output = cargo(&package, "build", program);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{program} was built");
        assert!(told.contains(MESSAGE), "{told}");
    }
}
