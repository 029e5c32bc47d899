"""One file per published system, each implementing `neurofm.task.Task`."""
