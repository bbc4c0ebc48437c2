//! Which failpoints and planted bugs there are, read from the source: one that is written today is in every sweep today.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What stands before a failpoint's name where one is set.
const MARKS: [&str; 2] = ["failpoint!(\"", "failpoint::hit(\""];

/// What stands before the name of a planted bug.
const PLANTED: [&str; 1] = ["planted!(\""];

/// The names of all failpoints in the source of this workspace, sorted. Those of examples in comments are none.
///
/// # Errors
/// When the source cannot be read.
pub fn all() -> Result<Vec<String>> {
    Ok(scan(&MARKS)?.into_iter().filter(|name| name.contains("::")).collect())
}

/// The names of all planted bugs in the source of this workspace, sorted.
///
/// # Errors
/// When the source cannot be read.
pub fn planted() -> Result<Vec<String>> {
    scan(&PLANTED)
}

fn scan(marks: &[&str]) -> Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace is one up")?;
    let mut names = BTreeSet::new();
    for item in fs::read_dir(root).with_context(|| root.display().to_string())? {
        let item = item?;
        let name = item.file_name();
        // Everything that is built into a program lies in a folder of a package.
        if item.file_type()?.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            read(&item.path(), marks, &mut names)?;
        }
    }
    Ok(names.into_iter().collect())
}

/// Those whose names begin so.
///
/// # Errors
/// When the source cannot be read.
pub fn of(prefixes: &[&str]) -> Result<Vec<String>> {
    let is_asked_for = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix));
    Ok(all()?.into_iter().filter(is_asked_for).collect())
}

fn read(folder: &Path, marks: &[&str], names: &mut BTreeSet<String>) -> Result<()> {
    for item in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = item?.path();
        if path.is_dir() {
            read(&path, marks, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (mark, line) in code.flat_map(|line| marks.iter().map(move |mark| (*mark, line))) {
                let found = line.split(mark).skip(1).filter_map(|rest| rest.split('"').next());
                names.extend(found.map(str::to_owned));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn points_are_found_where_they_are_set() {
        let names = super::all().unwrap();
        for name in ["durable::before_rename", "log::before_sync", "dp::journal::before_sync", "replica::after_apply"] {
            assert!(names.iter().any(|found| found == name), "{name} is not among {names:?}");
        }
    }
}
