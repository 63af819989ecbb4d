# Images, prepared once. Where a user's own come from is no input: a dry run needs none of them.


rule dataset:
    input:
        inputs_of("dataset"),
    output:
        expand(
            "<results>/dataset/{name}.npy",
            name=["images", "images_checksums", "labels", "groups", "parts"],
        ),
        "<results>/dataset/manifest.json",
    log:
        "<logs>/dataset.log",
    benchmark:
        "<benchmarks>/dataset.tsv"
    priority: priority_of("dataset")
    conda:
        "../environment.yml"
    threads: ALL_CORES
    resources:
        **resources_of("dataset"),
    params:
        options=options_of("dataset"),
    message:
        "preparing the images"
    shell:
        "ldae prepare {params.options} --threads {threads} > {log} 2>&1"
