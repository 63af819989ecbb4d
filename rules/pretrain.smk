# One network for each row and seed, trained or published. A denoiser leaves averaged weights too, and a training its
# history; its record names them. Checkpoints are no declared output: Snakemake deletes those when a job fails.


rule pretrain:
    input:
        inputs_of("pretrain"),
    output:
        "<results>/pretrain/{row}/seed{seed}/model.safetensors",
        "<results>/pretrain/{row}/seed{seed}/run.json",
    log:
        "<logs>/pretrain/{row}/seed{seed}.log",
    benchmark:
        "<benchmarks>/pretrain/{row}/seed{seed}.tsv"
    priority: priority_of("pretrain")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("pretrain"),
    params:
        options=options_of("pretrain"),
    message:
        "pretraining {wildcards.row}, seed {wildcards.seed}"
    shell:
        "ldae pretrain {params.options} --threads {threads} --processes {resources.gpu} --micro-batch {resources.micro_batch} --recompute {resources.recompute}"
        " --checkpoint-seconds {resources.checkpoint_seconds} --minutes {resources.runtime} > {log} 2>&1"
