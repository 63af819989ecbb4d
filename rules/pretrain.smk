# One network for each row and seed, trained or published. Checkpoints are no declared output: Snakemake deletes those
# when a job fails.


rule pretrain:
    input:
        dataset="<results>/dataset/manifest.json",
        tokenizer=tokenizer_of,
        latents=latents_of,
    output:
        model="<results>/pretrain/{variant}/seed{seed}/model.safetensors",
        ema="<results>/pretrain/{variant}/seed{seed}/ema.safetensors",
        history="<results>/pretrain/{variant}/seed{seed}/history.csv",
        run="<results>/pretrain/{variant}/seed{seed}/run.json",
    log:
        "<logs>/pretrain/{variant}/seed{seed}.log",
    benchmark:
        "<benchmarks>/pretrain/{variant}/seed{seed}.tsv"
    wildcard_constraints:
        variant=denoisers(TRAINED),
    priority: priority_of
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **SEVERAL_NODES,
        gpu=PROCESSES,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
        micro_batch=study.scale.resources.micro_batch or study.scale.training.batch,
        checkpoint_seconds=str(study.scale.resources.checkpoint_seconds),
    params:
        spec=spec_of(study.pretrain_stage),
        revision=revision_of("pretrain"),
        lineage=lineage_of(study.run_lineage),
        resume=f"{RESULTS}/resume/pretrain/{{variant}}/seed{{seed}}",
    message:
        "training {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "ldae pretrain --row {wildcards.variant} --seed {wildcards.seed}"
        " --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input.dataset}) --tokenizer $(dirname {input.tokenizer})"
        " --resume {params.resume} --out $(dirname {output.model})"
        " --threads {threads} --processes {resources.gpu} --micro-batch {resources.micro_batch}"
        " --checkpoint-seconds {resources.checkpoint_seconds} --minutes {resources.runtime} > {log} 2>&1"


rule pretrain_baseline:
    input:
        "<results>/dataset/manifest.json",
    output:
        model="<results>/pretrain/{variant}/seed{seed}/model.safetensors",
        history="<results>/pretrain/{variant}/seed{seed}/history.csv",
        run="<results>/pretrain/{variant}/seed{seed}/run.json",
    log:
        "<logs>/pretrain/{variant}/seed{seed}.log",
    benchmark:
        "<benchmarks>/pretrain/{variant}/seed{seed}.tsv"
    wildcard_constraints:
        variant=baselines(TRAINED),
    priority: priority_of
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **SEVERAL_NODES,
        gpu=PROCESSES,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
        recompute=int(study.scale.resources.recompute),
        checkpoint_seconds=str(study.scale.resources.checkpoint_seconds),
    params:
        spec=spec_of(study.pretrain_stage),
        revision=revision_of("pretrain"),
        lineage=lineage_of(study.run_lineage),
        resume=f"{RESULTS}/resume/pretrain/{{variant}}/seed{{seed}}",
    message:
        "training {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "ldae pretrain-baseline --row {wildcards.variant} --seed {wildcards.seed}"
        " --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage} --dataset $(dirname {input})"
        " --resume {params.resume} --out $(dirname {output.model})"
        " --threads {threads} --processes {resources.gpu} --recompute {resources.recompute}"
        " --checkpoint-seconds {resources.checkpoint_seconds} --minutes {resources.runtime} > {log} 2>&1"


rule adopt:
    input:
        dataset="<results>/dataset/manifest.json",
        tokenizer=tokenizer_of,
    output:
        model="<results>/pretrain/{variant}/seed{seed}/model.safetensors",
        ema="<results>/pretrain/{variant}/seed{seed}/ema.safetensors",
        run="<results>/pretrain/{variant}/seed{seed}/run.json",
    log:
        "<logs>/pretrain/{variant}/seed{seed}.log",
    benchmark:
        "<benchmarks>/pretrain/{variant}/seed{seed}.tsv"
    wildcard_constraints:
        variant=denoisers(PUBLISHED),
    priority: priority_of
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=spec_of(study.pretrain_stage),
        revision=revision_of("pretrain"),
        lineage=lineage_of(study.run_lineage),
    message:
        "taking the published weights of {wildcards.variant}"
    shell:
        "ldae adopt --row {wildcards.variant} --seed {wildcards.seed}"
        " --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input.dataset}) --tokenizer $(dirname {input.tokenizer})"
        " --out $(dirname {output.model}) --threads {threads} > {log} 2>&1"


rule adopt_baseline:
    input:
        "<results>/dataset/manifest.json",
    output:
        model="<results>/pretrain/{variant}/seed{seed}/model.safetensors",
        run="<results>/pretrain/{variant}/seed{seed}/run.json",
    log:
        "<logs>/pretrain/{variant}/seed{seed}.log",
    benchmark:
        "<benchmarks>/pretrain/{variant}/seed{seed}.tsv"
    wildcard_constraints:
        variant=baselines(PUBLISHED),
    priority: priority_of
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=spec_of(study.pretrain_stage),
        revision=revision_of("pretrain"),
        lineage=lineage_of(study.run_lineage),
    message:
        "taking the published weights of {wildcards.variant}"
    shell:
        "ldae adopt-baseline --row {wildcards.variant} --seed {wildcards.seed}"
        " --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage} --dataset $(dirname {input})"
        " --out $(dirname {output.model}) --threads {threads} > {log} 2>&1"
