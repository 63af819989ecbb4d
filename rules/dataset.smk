# Images, prepared once. Where a user's own come from is a parameter, not an input: a dry run needs none of them.


rule dataset:
    output:
        expand(
            "<results>/dataset/{split}{part}.npy",
            split=["train", "val"],
            part=["", "_labels", "_groups", "_checksums"],
        ),
        manifest="<results>/dataset/manifest.json",
    log:
        "<logs>/dataset.log",
    benchmark:
        "<benchmarks>/dataset.tsv"
    conda:
        "../environment.yml"
    threads: ALL_CORES
    resources:
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=study.dataset_stage().to_json(),
        revision=revision_of("dataset"),
        lineage=lineage_of(study.dataset_lineage),
    message:
        "preparing the images"
    shell:
        "ldae prepare --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --out $(dirname {output.manifest}) --threads {threads} > {log} 2>&1"
