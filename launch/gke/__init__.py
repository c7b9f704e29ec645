"""JobSets: Kubernetes manifests of runs, for GKE clusters with TPUs."""
