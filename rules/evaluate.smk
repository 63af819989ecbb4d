# How good the representation of a row is, what the same protocol gives without any network, what the encoder is worth once
# it is trained further with labels, and how good its samples are.


rule probe:
    input:
        dataset="<results>/dataset/manifest.json",
        tokenizer=tokenizer_of,
        latents=centres_of,
        model=model_of,
    output:
        about="<results>/probe/{variant}/seed{seed}/probe.json",
        correct="<results>/probe/{variant}/seed{seed}/correct.npz",
    log:
        "<logs>/probe/{variant}/seed{seed}.log",
    benchmark:
        "<benchmarks>/probe/{variant}/seed{seed}.tsv"
    priority: priority_of
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **SEVERAL_NODES,
        gpu=PROCESSES,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=spec_of(study.probe_stage),
        revision=revision_of("probe"),
        lineage=lineage_of(study.probe_lineage),
        tokenizer=tokenizer_option,
    message:
        "probing {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "ldae probe --row {wildcards.variant} --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input.dataset}) {params.tokenizer}"
        " --model $(dirname {input.model}) --out $(dirname {output.about})"
        " --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule probe_pixels:
    input:
        "<results>/dataset/manifest.json",
    output:
        about="<results>/probe/pixels/probe.json",
        correct="<results>/probe/pixels/correct.npz",
    log:
        "<logs>/probe/pixels.log",
    benchmark:
        "<benchmarks>/probe/pixels.tsv"
    priority: AT_ONCE  # the first table has it
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        gpu=ONE_GPU,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=study.pixels_stage().to_json(),
        revision=revision_of("probe"),
        lineage=lineage_of(study.pixels_lineage),
    message:
        "probing raw pixels"
    shell:
        "ldae probe-pixels --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input}) --out $(dirname {output.about}) --threads {threads} > {log} 2>&1"


rule finetune:
    input:
        dataset="<results>/dataset/manifest.json",
        tokenizer=tokenizer_of,
        model=model_of,
    output:
        about="<results>/finetune/{variant}/seed{seed}/finetune.json",
        correct="<results>/finetune/{variant}/seed{seed}/correct.npz",
        history="<results>/finetune/{variant}/seed{seed}/history.csv",
    log:
        "<logs>/finetune/{variant}/seed{seed}.log",
    benchmark:
        "<benchmarks>/finetune/{variant}/seed{seed}.tsv"
    priority: priority_of
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **SEVERAL_NODES,
        gpu=PROCESSES,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
        micro_batch=study.scale.resources.micro_batch or study.scale.finetuning.batch,
        checkpoint_seconds=str(study.scale.resources.checkpoint_seconds),
    params:
        spec=spec_of(study.finetune_stage),
        revision=revision_of("finetune"),
        lineage=lineage_of(study.finetune_lineage),
        tokenizer=tokenizer_option,
        resume=f"{RESULTS}/resume/finetune/{{variant}}/seed{{seed}}",
    message:
        "fine-tuning {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "ldae finetune --row {wildcards.variant} --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input.dataset}) {params.tokenizer}"
        " --model $(dirname {input.model}) --resume {params.resume} --out $(dirname {output.about})"
        " --threads {threads} --processes {resources.gpu} --micro-batch {resources.micro_batch}"
        " --checkpoint-seconds {resources.checkpoint_seconds} --minutes {resources.runtime} > {log} 2>&1"


rule sample:
    input:
        dataset="<results>/dataset/manifest.json",
        tokenizer=tokenizer_of,
        ema="<results>/pretrain/{variant}/seed{seed}/ema.safetensors",
    output:
        samples="<results>/samples/{variant}/seed{seed}/samples.npy",
        about="<results>/samples/{variant}/seed{seed}/samples.json",
    log:
        "<logs>/samples/{variant}/seed{seed}.log",
    benchmark:
        "<benchmarks>/samples/{variant}/seed{seed}.tsv"
    priority: priority_of
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **SEVERAL_NODES,
        gpu=PROCESSES,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=study.sample_stage().to_json(),
        revision=revision_of("sample"),
        lineage=lineage_of(study.sample_lineage),
    message:
        "sampling {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "ldae sample --row {wildcards.variant} --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input.dataset}) --tokenizer $(dirname {input.tokenizer})"
        " --model $(dirname {input.ema}) --out $(dirname {output.samples})"
        " --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule reference:
    input:
        dataset="<results>/dataset/manifest.json",
        judge=JUDGE,
    output:
        statistics="<results>/judge/reference/reference.npz",
        about="<results>/judge/reference/reference.json",
    log:
        "<logs>/judge/reference.log",
    benchmark:
        "<benchmarks>/judge/reference.tsv"
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        gpu=ONE_GPU,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=study.judge_stage().to_json(),
        revision=revision_of("judge"),
        lineage=lineage_of(study.reference_lineage),
        judge=JUDGE_OPTION,
    message:
        "measuring the true images"
    shell:
        "ldae reference --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input.dataset}) {params.judge}"
        " --out $(dirname {output.statistics}) --threads {threads} > {log} 2>&1"


rule judge:
    input:
        samples="<results>/samples/{variant}/seed{seed}/samples.npy",
        reference="<results>/judge/reference/reference.npz",
        judge=JUDGE,
    output:
        "<results>/judge/{variant}/seed{seed}/distance.json",
    log:
        "<logs>/judge/{variant}/seed{seed}.log",
    benchmark:
        "<benchmarks>/judge/{variant}/seed{seed}.tsv"
    priority: priority_of
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        gpu=ONE_GPU,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=study.judge_stage().to_json(),
        revision=revision_of("judge"),
        lineage=lineage_of(study.distance_lineage),
        judge=JUDGE_OPTION,
    message:
        "judging the samples of {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "ldae judge --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --samples $(dirname {input.samples}) --reference $(dirname {input.reference}) {params.judge}"
        " --out $(dirname {output}) --threads {threads} > {log} 2>&1"


rule denoise:
    input:
        dataset="<results>/dataset/manifest.json",
        tokenizer=tokenizer_of,
        model="<results>/pretrain/{variant}/seed{seed}/model.safetensors",
    output:
        pictures="<results>/denoise/{variant}/seed{seed}/pictures.npz",
        about="<results>/denoise/{variant}/seed{seed}/pictures.json",
    log:
        "<logs>/denoise/{variant}/seed{seed}.log",
    benchmark:
        "<benchmarks>/denoise/{variant}/seed{seed}.tsv"
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        gpu=ONE_GPU,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=study.denoise_stage().to_json(),
        revision=revision_of("denoise"),
        lineage=lineage_of(study.denoise_lineage),
    message:
        "denoising with {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "ldae denoise-validation --row {wildcards.variant} --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input.dataset}) --tokenizer $(dirname {input.tokenizer})"
        " --model $(dirname {input.model}) --out $(dirname {output.pictures}) --threads {threads} > {log} 2>&1"
