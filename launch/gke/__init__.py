"""JobSets: runs as Kubernetes knows them, for clusters of GKE with TPUs."""
