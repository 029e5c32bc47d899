"""Many devices, many processes: the mesh, shardings and start-up."""
