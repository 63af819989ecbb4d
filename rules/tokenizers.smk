# One fit for each tokenizer: a PCA serves every dimension, and every fit every scaling. The convolutional ones are
# trained, and leave the training set's latents beside their weights.


rule tokenizer:
    input:
        "<results>/dataset/manifest.json",
    output:
        fit="<results>/tokenizers/{tokenizer}/tokenizer.safetensors",
        about="<results>/tokenizers/{tokenizer}/tokenizer.json",
    log:
        "<logs>/tokenizers/{tokenizer}.log",
    benchmark:
        "<benchmarks>/tokenizers/{tokenizer}.tsv"
    wildcard_constraints:
        tokenizer=one_of(FITTED),
    priority: tokenizer_priority_of
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=tokenizer_spec,
        revision=revision_of("tokenizer"),
        lineage=lineage_of(study.tokenizer_lineage),
    message:
        "fitting tokenizer {wildcards.tokenizer}"
    shell:
        "ldae fit-tokenizer --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input}) --out $(dirname {output.fit}) --threads {threads} > {log} 2>&1"


rule convolutional_tokenizer:
    input:
        dataset="<results>/dataset/manifest.json",
        vgg=vgg_of,
    output:
        fit="<results>/tokenizers/{tokenizer}/tokenizer.safetensors",
        about="<results>/tokenizers/{tokenizer}/tokenizer.json",
        latents="<results>/tokenizers/{tokenizer}/latents.npy",
        checksums="<results>/tokenizers/{tokenizer}/latents_checksums.npy",
        history="<results>/tokenizers/{tokenizer}/history.csv",
    log:
        "<logs>/tokenizers/{tokenizer}.log",
    benchmark:
        "<benchmarks>/tokenizers/{tokenizer}.tsv"
    wildcard_constraints:
        tokenizer=one_of(CONVOLUTIONAL),
    priority: tokenizer_priority_of
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
        spec=tokenizer_spec,
        revision=revision_of("tokenizer"),
        lineage=lineage_of(study.tokenizer_lineage),
        vgg=vgg_option,
        resume=f"{RESULTS}/resume/tokenizers/{{tokenizer}}",
    message:
        "training tokenizer {wildcards.tokenizer}"
    shell:
        "ldae train-tokenizer --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input.dataset}) {params.vgg}"
        " --resume {params.resume} --out $(dirname {output.fit}) --processes {resources.gpu}"
        " --threads {threads} --recompute {resources.recompute} --checkpoint-seconds {resources.checkpoint_seconds} --minutes {resources.runtime} > {log} 2>&1"


rule classifier:
    input:
        "<results>/dataset/manifest.json",
    output:
        weights="<results>/classifiers/{architecture}/weights.safetensors",
        about="<results>/classifiers/{architecture}/classifier.json",
        history="<results>/classifiers/{architecture}/history.csv",
    log:
        "<logs>/classifiers/{architecture}.log",
    benchmark:
        "<benchmarks>/classifiers/{architecture}.tsv"
    priority: classifier_priority_of
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        gpu=ONE_GPU,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
        checkpoint_seconds=str(study.scale.resources.checkpoint_seconds),
    params:
        spec=classifier_spec,
        revision=revision_of("classifier"),
        lineage=lineage_of(study.classifier_lineage),
        resume=f"{RESULTS}/resume/classifiers/{{architecture}}",
    message:
        "training classifier {wildcards.architecture}"
    shell:
        "ldae train-classifier --spec {params.spec:q} --revision {params.revision} --lineage {params.lineage}"
        " --dataset $(dirname {input}) --resume {params.resume} --out $(dirname {output.weights})"
        " --threads {threads} --checkpoint-seconds {resources.checkpoint_seconds} --minutes {resources.runtime} > {log} 2>&1"
