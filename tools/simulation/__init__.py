"""The LiDAR simulator: solids, streets, sensor, ray caster."""
