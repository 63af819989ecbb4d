# How good the representation of a row is, and what the same protocol gives without any network.


rule probe:
    input:
        dataset="<results>/dataset/manifest.json",
        tokenizer=tokenizer_of,
        model="<results>/pretrain/{variant}/seed{seed}/model.safetensors",
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
        gpu=study.scale.resources.gpu,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=probe_spec,
        revision=revision_of("probe"),
    message:
        "probing {wildcards.variant}, seed {wildcards.seed}"
    shell:
        "ldae probe --spec {params.spec:q} --revision {params.revision}"
        " --dataset $(dirname {input.dataset}) --tokenizer $(dirname {input.tokenizer})"
        " --model $(dirname {input.model}) --out $(dirname {output.about}) --threads {threads} > {log} 2>&1"


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
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        gpu=study.scale.resources.gpu,
        mem_mb=study.scale.resources.mem_mb,
        runtime=study.scale.resources.minutes,
    params:
        spec=study.pixels_stage().to_json(),
        revision=revision_of("probe"),
    message:
        "probing raw pixels"
    shell:
        "ldae probe-pixels --spec {params.spec:q} --revision {params.revision}"
        " --dataset $(dirname {input}) --out $(dirname {output.about}) --threads {threads} > {log} 2>&1"
