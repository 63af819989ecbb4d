# How good the representation of a row is, what the same protocol gives without training and without any network, what the
# encoder is worth once it is trained further with labels, and how good its samples are.


rule probe:
    input:
        inputs_of("probe"),
    output:
        "<results>/probe/{row}/seed{seed}/probe.json",
        "<results>/probe/{row}/seed{seed}/correct.npz",
    log:
        "<logs>/probe/{row}/seed{seed}.log",
    benchmark:
        "<benchmarks>/probe/{row}/seed{seed}.tsv"
    priority: priority_of("probe")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("probe"),
    params:
        options=options_of("probe"),
    message:
        "probing {wildcards.row}, seed {wildcards.seed}"
    shell:
        "ldae probe {params.options} --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule probe_untrained:
    input:
        inputs_of("probe_untrained"),
    output:
        "<results>/untrained/{row}/seed{seed}/probe.json",
        "<results>/untrained/{row}/seed{seed}/correct.npz",
    log:
        "<logs>/untrained/{row}/seed{seed}.log",
    benchmark:
        "<benchmarks>/untrained/{row}/seed{seed}.tsv"
    priority: priority_of("probe_untrained")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("probe_untrained"),
    params:
        options=options_of("probe_untrained"),
    message:
        "probing untrained {wildcards.row}, seed {wildcards.seed}"
    shell:
        "ldae probe-untrained {params.options} --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule probe_pixels:
    input:
        inputs_of("probe_pixels"),
    output:
        "<results>/pixels/seed{seed}/probe.json",
        "<results>/pixels/seed{seed}/correct.npz",
    log:
        "<logs>/pixels/seed{seed}.log",
    benchmark:
        "<benchmarks>/pixels/seed{seed}.tsv"
    priority: priority_of("probe_pixels")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("probe_pixels"),
    params:
        options=options_of("probe_pixels"),
    message:
        "probing raw pixels, seed {wildcards.seed}"
    shell:
        "ldae probe-pixels {params.options} --threads {threads} > {log} 2>&1"


rule finetune:
    input:
        inputs_of("finetune"),
    output:
        "<results>/finetune/{row}/seed{seed}/finetune.json",
        "<results>/finetune/{row}/seed{seed}/correct.npz",
        "<results>/finetune/{row}/seed{seed}/history.csv",
    log:
        "<logs>/finetune/{row}/seed{seed}.log",
    benchmark:
        "<benchmarks>/finetune/{row}/seed{seed}.tsv"
    priority: priority_of("finetune")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("finetune"),
    params:
        options=options_of("finetune"),
    message:
        "fine-tuning {wildcards.row}, seed {wildcards.seed}"
    shell:
        "ldae finetune {params.options} --threads {threads} --processes {resources.gpu} --micro-batch {resources.micro_batch}"
        " --checkpoint-seconds {resources.checkpoint_seconds} --minutes {resources.runtime} > {log} 2>&1"


rule sample:
    input:
        inputs_of("sample"),
    output:
        "<results>/samples/{row}/seed{seed}/samples.npy",
        "<results>/samples/{row}/seed{seed}/examples.npy",
        "<results>/samples/{row}/seed{seed}/samples.json",
    log:
        "<logs>/samples/{row}/seed{seed}.log",
    benchmark:
        "<benchmarks>/samples/{row}/seed{seed}.tsv"
    priority: priority_of("sample")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("sample"),
    params:
        options=options_of("sample"),
    message:
        "sampling {wildcards.row}, seed {wildcards.seed}"
    shell:
        "ldae sample {params.options} --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule reference:
    input:
        inputs_of("reference"),
    output:
        "<results>/judge/reference/reference.npz",
        "<results>/judge/reference/reference.json",
    log:
        "<logs>/judge/reference.log",
    benchmark:
        "<benchmarks>/judge/reference.tsv"
    priority: priority_of("reference")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("reference"),
    params:
        options=options_of("reference"),
    message:
        "measuring the true images"
    shell:
        "ldae reference {params.options} --threads {threads} > {log} 2>&1"


rule judge:
    input:
        inputs_of("judge"),
    output:
        "<results>/judge/{row}/seed{seed}/distance.json",
    log:
        "<logs>/judge/{row}/seed{seed}.log",
    benchmark:
        "<benchmarks>/judge/{row}/seed{seed}.tsv"
    priority: priority_of("judge")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("judge"),
    params:
        options=options_of("judge"),
    message:
        "judging the samples of {wildcards.row}, seed {wildcards.seed}"
    shell:
        "ldae judge {params.options} --threads {threads} > {log} 2>&1"


rule denoise:
    input:
        inputs_of("denoise"),
    output:
        "<results>/denoise/{row}/seed{seed}/pictures.npz",
        "<results>/denoise/{row}/seed{seed}/pictures.json",
    log:
        "<logs>/denoise/{row}/seed{seed}.log",
    benchmark:
        "<benchmarks>/denoise/{row}/seed{seed}.tsv"
    priority: priority_of("denoise")
    conda:
        "../environment.yml"
    threads: study.scale.resources.threads
    resources:
        **resources_of("denoise"),
    params:
        options=options_of("denoise"),
    message:
        "denoising with {wildcards.row}, seed {wildcards.seed}"
    shell:
        "ldae denoise-validation {params.options} --threads {threads} > {log} 2>&1"
