"""Prints tokens and logprobs of models, one JSON line each: python vllm_run.py TP MODEL..."""

import gc
import json
import os
import sys
import time

TP = int(sys.argv[1])
os.environ |= {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "VLLM_NO_USAGE_STATS": "1"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
if TP > 1:
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(str(i) for i in range(TP))


def answers(llm):
    """Tokens and logprobs of two prompts, exactly."""
    from vllm import SamplingParams

    params = SamplingParams(
        max_tokens=8, temperature=0, logprobs=5, prompt_logprobs=2, detokenize=False, ignore_eos=True
    )
    prompts = [{"prompt_token_ids": [5, 9, 77, 130, 3, 200]}, {"prompt_token_ids": [42] * 20}]
    result = []
    for output in llm.generate(prompts, params, use_tqdm=False):
        steps = [*output.prompt_logprobs, *output.outputs[0].logprobs]
        logprobs = [{str(token): repr(entry.logprob) for token, entry in (step or {}).items()} for step in steps]
        result.append({"tokens": list(output.outputs[0].token_ids), "logprobs": logprobs})
    return result


def main():
    from vllm import LLM
    from vllm_probe import packed

    for model in sys.argv[2:]:
        if model == "eager":
            continue
        start = time.time()
        llm = LLM(
            model,
            tensor_parallel_size=TP,
            skip_tokenizer_init=True,
            max_model_len=64,
            max_num_seqs=4,
            dtype="bfloat16",
            enforce_eager="eager" in sys.argv,
            seed=0,
        )
        loaded = time.time()
        result = answers(llm)
        counts = llm.apply_model(packed)
        print(
            "RESULT "
            + json.dumps(
                {
                    "model": model,
                    "packed": counts,
                    "answers": result,
                    "load_s": loaded - start,
                    "generate_s": time.time() - loaded,
                }
            ),
            flush=True,
        )
        del llm
        gc.collect()


if __name__ == "__main__":
    main()
