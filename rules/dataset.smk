# Images, prepared once. Where a user's own come from is a parameter, not an input: a dry run needs none of them.


rule dataset:
    output:
        multiext(
            "<results>/dataset/",
            "manifest.json",
            "train.npy",
            "train_labels.npy",
            "train_groups.npy",
            "val.npy",
            "val_labels.npy",
            "val_groups.npy",
        ),
    log:
        "<logs>/dataset.log",
    benchmark:
        "<benchmarks>/dataset.tsv"
    conda:
        "../environment.yml"
    threads: workflow.cores or 1
    resources:
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=study.dataset_stage().to_json(),
        revision=revision_of("dataset"),
    message:
        "preparing the images"
    shell:
        "exec ldae prepare --spec {params.spec:q} --revision {params.revision}"
        " --out $(dirname {output[0]}) --threads {threads} > {log} 2>&1"
