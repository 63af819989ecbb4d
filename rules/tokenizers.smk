# One fit for each kind of tokenizer: a PCA serves every dimension and every scale.


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
    message:
        "fitting tokenizer {wildcards.tokenizer}"
    shell:
        "ldae fit-tokenizer --spec {params.spec:q} --revision {params.revision}"
        " --dataset $(dirname {input}) --out $(dirname {output.fit}) --threads {threads} > {log} 2>&1"
