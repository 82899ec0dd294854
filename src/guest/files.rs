//! Single files of a guest: listed, read, written, while it runs or not.

use std::fs::File;
use std::io::{Read as _, Seek as _};

use rustix::fs::MemfdFlags;

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::KernelError;
use crate::kernel::strange_file::FileJob;
use crate::launch::{EnterError, Task};
use crate::model::{FileEntry, FileWish, GuestName, Status};
use crate::storage;

/// Most bytes of what an entered process tells of a folder.
const REPORT_MOST: u64 = 64 << 20;

impl Manager {
    /// What is in a guest's folder, or what a name that is no folder is.
    ///
    /// # Errors
    /// There is nothing, or the guest is neither running nor stopped.
    pub fn list_files(&self, name: &GuestName, path: &str) -> Result<Vec<FileEntry>> {
        self.file_job(name, FileJob::List(path.into()))
    }

    /// What a name in a guest is, itself and not what it leads to.
    ///
    /// # Errors
    /// As [`Manager::list_files`]; that there is nothing is none.
    pub fn look_at_file(&self, name: &GuestName, path: &str) -> Result<Option<FileEntry>> {
        Ok(self.file_job(name, FileJob::Look(path.into()))?.pop())
    }

    /// Copies the regular file that a path in a guest leads to; tells what it is.
    ///
    /// # Errors
    /// There is none, it is no regular file, or `into` cannot be written.
    pub fn read_file(&self, name: &GuestName, path: &str, into: File) -> Result<FileEntry> {
        let told = self.file_job(
            name,
            FileJob::Read {
                path: path.into(),
                into,
            },
        )?;
        only(name, path, told)
    }

    /// Writes a regular file in a guest whole, in place of one that is there; tells what it is then.
    ///
    /// # Errors
    /// Its folder is not there, something else than a regular file is, or the disk is full. The
    /// guest's file is then as it was.
    pub fn write_file(
        &self,
        name: &GuestName,
        path: &str,
        from: File,
        wish: FileWish,
    ) -> Result<FileEntry> {
        let path = path.to_owned();
        let shown = path.clone();
        let told = self.file_job(name, FileJob::Write { path, from, wish })?;
        only(name, &shown, told)
    }

    fn file_job(&self, name: &GuestName, job: FileJob) -> Result<Vec<FileEntry>> {
        if self.status(name)? == Status::Stopped {
            let _lock = self.lock(name, "file")?;
            // It may have been started before the lock was had.
            if self.status(name)? == Status::Stopped {
                return self.job_in_stopped(name, &job);
            }
        }
        self.job_in_running(name, job)
    }

    fn job_in_stopped(&self, name: &GuestName, job: &FileJob) -> Result<Vec<FileEntry>> {
        self.clean_up(name)?;
        let image = storage::load_image(&self.layout, &self.machine(name)?.image)?;
        storage::guest_file(&self.layout, name, &image, job).map_err(|error| GuestError::File {
            verb: error.verb,
            guest: name.clone(),
            path: error.path.display().to_string(),
            why: error.source.to_string(),
        })
    }

    fn job_in_running(&self, name: &GuestName, job: FileJob) -> Result<Vec<FileEntry>> {
        self.await_start(name)?;
        let (verb, path) = match &job {
            FileJob::List(path) => ("list", path.clone()),
            FileJob::Look(path) => ("look at", path.clone()),
            FileJob::Read { path, .. } => ("read", path.clone()),
            FileJob::Write { path, .. } => ("write", path.clone()),
        };
        let failed = |why: String| GuestError::File {
            verb,
            guest: name.clone(),
            path: path.clone(),
            why,
        };
        let report = rustix::fs::memfd_create("report", MemfdFlags::CLOEXEC)
            .map_err(KernelError::on("make", "a file in memory"))?;
        let mut told = File::from(report.try_clone().map_err(|e| failed(e.to_string()))?);
        match self.enter_briefly(name, Task::File { job, report }) {
            Ok(()) => {}
            Err(GuestError::Enter(EnterError::Task(why))) => return Err(failed(why)),
            Err(error) => return Err(error),
        }
        let mut text = Vec::new();
        told.rewind()
            .and_then(|()| told.take(REPORT_MOST).read_to_end(&mut text))
            .map_err(|error| failed(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))
    }
}

fn only(name: &GuestName, path: &str, mut told: Vec<FileEntry>) -> Result<FileEntry> {
    told.pop().ok_or_else(|| GuestError::File {
        verb: "look at",
        guest: name.clone(),
        path: path.into(),
        why: "it is gone".into(),
    })
}
